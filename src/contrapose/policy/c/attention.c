/* Attention in training. Tokens of any rows lie one after the other, H or G heads each. Row r is made of those at place[start[r]]
   to place[start[r + 1] - 1]; its first known[r] are others' too, and only the rest attend, each to itself and what stands before,
   at most window - 1 back. What a row's columns hold is first put together, lanes of columns by dimension or column by column. */

#include "lanes.h"

static void by_lanes(const float *x, const int64_t *place, int64_t count, int64_t heads, int64_t head, float *columns) {
    for (int64_t s = 0; s < (count + LANES - 1) / LANES * LANES; s++) {
        const float *from = x + (place[s < count ? s : count - 1] * heads + head) * SIZE;
        for (int64_t d = 0; d < SIZE; d++) columns[s / LANES * LANES * SIZE + d * LANES + s % LANES] = from[d];
    }
}

static void by_columns(const float *x, const int64_t *place, int64_t count, int64_t heads, int64_t head, float *columns) {
    for (int64_t s = 0; s < count; s++)
        memcpy(columns + s * WIDTH, x + (place[s] * heads + head) * SIZE, SIZE * sizeof *x);
}

/* scores[t] of TILE vectors with the LANES columns of a block. */
static inline void dots(float vectors[TILE][WIDTH], const float *block, wide scores[TILE]) {
    for (int t = 0; t < TILE; t++) scores[t] = zero;
    for (int64_t d = 0; d < SIZE; d++)
        for (int t = 0; t < TILE; t++) scores[t] += vectors[t][d] * *(const wide *)(block + d * LANES);
}

/* TILE queries from ``first``: shares of the columns from start to stop, not yet divided by ``sums``; none where there is no query. */
static inline void shares_of(float Q[TILE][WIDTH], const float *keys, int64_t first, int64_t count, int64_t window, float scale,
                             int64_t start, int64_t stop, float *share, int64_t room, float *sums) {
    for (int64_t s = start; s < stop; s += LANES) {
        wide score[TILE];
        dots(Q, keys + s * SIZE, score);
        for (int t = 0; t < TILE; t++) *(wide *)(share + t * room + s) = score[t] * scale;
    }
    for (int t = 0; t < TILE; t++) {
        int64_t seen = first + t + 1;
        sums[t] = 1.0f;
        if (first + t < count)
            sums[t] = softmax(share + t * room, seen > window ? seen - window : 0, seen, start, stop);
        else
            for (int64_t s = start; s < stop; s += LANES) *(wide *)(share + t * room + s) = zero;
    }
}

static inline void pick(const float *x, const int64_t *place, int64_t first, int64_t count, int64_t heads, int64_t head,
                        float vectors[TILE][WIDTH]) {
    for (int t = 0; t < TILE; t++)
        memcpy(vectors[t], x + (place[first + t < count ? first + t : count - 1] * heads + head) * SIZE, SIZE * sizeof *x);
}

/* Key-value heads first to last - 1 of all rows; ``work`` has room for so many columns of 2 * WIDTH + TILE values. */
void attend(const float *q, const float *k, const float *v, float *out, const int64_t *place, const int64_t *start,
            const int64_t *known, float *work, int64_t rows, int64_t heads, int64_t groups, int64_t room, int64_t window,
            float scale, int64_t first, int64_t last) {
    float *keys = work, *values = keys + room * WIDTH, *share = values + room * WIDTH, Q[TILE][WIDTH] = {{0}}, sums[TILE];
    for (int64_t row = 0; row < rows; row++)
        for (int64_t group = first; group < last; group++) {
            const int64_t *at = place + start[row], count = start[row + 1] - start[row], each = heads / groups;
            by_lanes(k, at, count, groups, group, keys);
            by_columns(v, at, count, groups, group, values);
            for (int64_t head = group * each; head < (group + 1) * each; head++)
                for (int64_t i = known[row]; i < count; i += TILE) {
                    int64_t from = i + 1 > window ? (i + 1 - window) / LANES * LANES : 0, stop = i + TILE < count ? i + TILE : count;
                    wide sum[TILE][PARTS];
                    pick(q, at, i, count, heads, head, Q);
                    shares_of(Q, keys, i, count, window, scale, from, stop, share, room, sums);
                    for (int t = 0; t < TILE; t++)
                        for (int p = 0; p < PARTS; p++) sum[t][p] = zero;
                    for (int64_t s = from; s < stop; s++)
                        for (int t = 0; t < TILE; t++)
                            for (int p = 0; p < PARTS; p++)
                                sum[t][p] += share[t * room + s] * *(const wide *)(values + s * WIDTH + p * LANES);
                    for (int t = 0; t < TILE && i + t < count; t++)
                        for (int p = 0; p < PARTS; p++)
                            store(out + (at[i + t] * heads + head) * SIZE + p * LANES, sum[t][p] / sums[t], SIZE - p * LANES);
                }
        }
}

/* The way back: dq of the tokens that attend, and what is added to dk and dv. ``work``: columns of 5 * WIDTH + 2 * TILE values. */
void attend_back(const float *grad, const float *q, const float *k, const float *v, const float *out, float *dq, float *dk,
                 float *dv, const int64_t *place, const int64_t *start, const int64_t *known, float *work, int64_t rows,
                 int64_t heads, int64_t groups, int64_t room, int64_t window, float scale, int64_t first, int64_t last) {
    float *keys = work, *K = keys + room * WIDTH, *values = K + room * WIDTH, *share = values + room * WIDTH;
    float *slope = share + TILE * room, *dK = slope + TILE * room, *dV = dK + room * WIDTH, sums[TILE];
    float Q[TILE][WIDTH] = {{0}}, D[TILE][WIDTH] = {{0}}, O[TILE][WIDTH] = {{0}};
    for (int64_t row = 0; row < rows; row++)
        for (int64_t group = first; group < last; group++) {
            const int64_t *at = place + start[row], count = start[row + 1] - start[row], each = heads / groups;
            by_lanes(k, at, count, groups, group, keys);
            by_columns(k, at, count, groups, group, K);
            by_lanes(v, at, count, groups, group, values);
            memset(dK, 0, count * WIDTH * sizeof *dK);
            memset(dV, 0, count * WIDTH * sizeof *dV);
            for (int64_t head = group * each; head < (group + 1) * each; head++)
                for (int64_t i = known[row]; i < count; i += TILE) {
                    int64_t from = i + 1 > window ? (i + 1 - window) / LANES * LANES : 0, stop = i + TILE < count ? i + TILE : count;
                    float along[TILE];
                    wide sum[TILE][PARTS];
                    pick(q, at, i, count, heads, head, Q);
                    pick(grad, at, i, count, heads, head, D);
                    pick(out, at, i, count, heads, head, O);
                    shares_of(Q, keys, i, count, window, scale, from, stop, share, room, sums);
                    for (int t = 0; t < TILE; t++) {
                        wide product = zero;
                        for (int p = 0; p < PARTS; p++) {
                            product += *(wide *)(D[t] + p * LANES) * *(wide *)(O[t] + p * LANES);
                            sum[t][p] = zero;
                        }
                        along[t] = total(product);
                    }
                    for (int64_t s = from; s < stop; s += LANES) {
                        wide d[TILE];
                        dots(D, values + s * SIZE, d);
                        for (int t = 0; t < TILE; t++) {
                            wide p = *(wide *)(share + t * room + s) / sums[t];
                            *(wide *)(share + t * room + s) = p;
                            *(wide *)(slope + t * room + s) = (p * (d[t] - along[t])) * scale;
                        }
                    }
                    for (int64_t s = from; s < stop; s++)
                        for (int p = 0; p < PARTS; p++) {
                            wide key = *(wide *)(K + s * WIDTH + p * LANES), to_k = *(wide *)(dK + s * WIDTH + p * LANES);
                            wide to_v = *(wide *)(dV + s * WIDTH + p * LANES);
                            for (int t = 0; t < TILE; t++) {
                                sum[t][p] += slope[t * room + s] * key;
                                to_k += slope[t * room + s] * *(wide *)(Q[t] + p * LANES);
                                to_v += share[t * room + s] * *(wide *)(D[t] + p * LANES);
                            }
                            *(wide *)(dK + s * WIDTH + p * LANES) = to_k;
                            *(wide *)(dV + s * WIDTH + p * LANES) = to_v;
                        }
                    for (int t = 0; t < TILE && i + t < count; t++)
                        for (int p = 0; p < PARTS; p++)
                            store(dq + (at[i + t] * heads + head) * SIZE + p * LANES, sum[t][p], SIZE - p * LANES);
                }
            for (int64_t s = 0; s < count; s++)
                for (int64_t d = 0; d < SIZE; d++) {
                    dk[(at[s] * groups + group) * SIZE + d] += dK[s * WIDTH + d];
                    dv[(at[s] * groups + group) * SIZE + d] += dV[s * WIDTH + d];
                }
        }
}
