/* A step of decoding: attention of one new token a row to the row's past, the whole step, and the draw of a token. */

#include "lanes.h"

void norm(const float *x, const float *w, float *out, float *scale, int64_t first, int64_t last, int64_t size, float eps);
void gated(const float *gate, const float *up, float *out, int64_t first, int64_t last);

/* Rows first to last - 1, whose past is at place[row], append a token at column length[row], then attend to it and to at
   most window - 1 columns before. Keys lie 16 columns at a time, dimension by dimension; values column by column. Columns lie in
   chunks of so many; a chunk of all places and groups is followed, stride floats on, by the next chunk of all. What is read
   lies dense. */
void look_back(const float *q, const float *k, const float *v, const float *qw, const float *kw, const float *cos,
               const float *sin, float *keys, float *values, const int64_t *place, const int64_t *length, float *out,
               float *share, int64_t first, int64_t last, int64_t heads, int64_t groups, int64_t room, int64_t chunk,
               int64_t stride, int64_t window, float scale, float eps) {
    int64_t a_row = groups * chunk * SIZE;
    for (int64_t row = first; row < last; row++) {
        int64_t at = length[row], seen = at + 1, from = seen > window ? seen - window : 0, mine = place[row] * a_row;
        int64_t ahead = row + 1 < last ? place[row + 1] * a_row - mine : 0;
        const float *c = cos + at * SIZE, *n = sin + at * SIZE;
        for (int64_t g = 0; g < groups; g++) {
            int64_t column = mine + g * chunk * SIZE + at / chunk * stride;
            float turned[SIZE], *K = keys + column;
            turn_head(k + (row * groups + g) * SIZE, kw, c, n, turned, eps);
            for (int64_t d = 0; d < SIZE; d++) K[at % chunk / LANES * LANES * SIZE + d * LANES + at % LANES] = turned[d];
            memcpy(values + column + at % chunk * SIZE, v + (row * groups + g) * SIZE, SIZE * sizeof *v);
        }
        for (int64_t head = 0; head < heads; head += TILE) {
            float Q[TILE][SIZE], sums[TILE];
            int64_t block[TILE];
            for (int t = 0; t < TILE; t++) {
                int64_t h = head + t < heads ? head + t : heads - 1; /* the last may be computed more than once */
                turn_head(q + (row * heads + h) * SIZE, qw, c, n, Q[t], eps);
                block[t] = mine + h / (heads / groups) * chunk * SIZE;
            }
            for (int64_t s = from / LANES * LANES; s < seen; s += LANES) {
                wide score[TILE] = {zero};
                const float *K[TILE];
                for (int t = 0; t < TILE; t++) K[t] = keys + block[t] + s / chunk * stride + s % chunk * SIZE;
                for (int64_t d = 0; d < SIZE; d++)
                    for (int t = 0; t < TILE; t++) {
                        score[t] += Q[t][d] * *(const wide *)(K[t] + d * LANES);
                        __builtin_prefetch(K[t] + d * LANES + ahead, 0, 2);
                    }
                for (int t = 0; t < TILE; t++) *(wide *)(share + t * room + s) = score[t] * scale;
            }
            for (int t = 0; t < TILE; t++) sums[t] = softmax(share + t * room, from, seen, from / LANES * LANES, seen);
            wide sum[TILE][PARTS];
            for (int t = 0; t < TILE; t++)
                for (int i = 0; i < PARTS; i++) sum[t][i] = zero;
            for (int64_t start = from; start < seen;) {
                int64_t stop = (start / chunk + 1) * chunk < seen ? (start / chunk + 1) * chunk : seen;
                const float *V = values + start / chunk * stride + start % chunk * SIZE;
                for (int64_t s = start; s < stop; s++, V += SIZE)
                    for (int t = 0; t < TILE; t++)
                        for (int i = 0; i < PARTS; i++) {
                            sum[t][i] += share[t * room + s] * *(const wide *)(V + block[t] + i * LANES);
                            __builtin_prefetch(V + block[t] + i * LANES + ahead, 0, 2);
                        }
                start = stop;
            }
            for (int t = 0; t < TILE && head + t < heads; t++)
                for (int i = 0; i < PARTS; i++)
                    store(out + (row * heads + head + t) * SIZE + i * LANES, sum[t][i] / sums[t], SIZE - i * LANES);
        }
    }
}

typedef void (*multiply)(const char *, const char *, const int *, const int *, const int *, const float *, const float *,
                         const int *, const float *, const int *, const float *, float *, const int *);

/* out = x w' + b, or out += that: BLAS's product, in whose columns our rows lie. */
static void linear(multiply sgemm, const float *x, const float *w, const float *b, float *out, int rows, int in, int wide_out,
                   int onto) {
    const float one = 1.0f, beta = onto || b ? 1.0f : 0.0f;
    for (int64_t row = 0; b && row < rows; row++)
        for (int64_t i = 0; i < wide_out; i++) out[row * wide_out + i] = onto ? out[row * wide_out + i] + b[i] : b[i];
    sgemm("T", "N", &wide_out, &rows, &in, &one, w, &in, x, &in, &beta, out, &wide_out);
}

typedef struct {
    const float *before, *q, *q_bias, *k, *k_bias, *v, *v_bias, *q_norm, *k_norm, *o, *o_bias, *after, *gate, *gate_bias, *up,
        *up_bias, *down, *down_bias;
    float *keys, *values;
    int64_t window;
} Layer;

typedef struct {
    multiply sgemm;
    void (*threads)(int); /* how many the product may use on this thread, or null */
    const Layer *layers;
    const float *embedding, *last_norm, *head, *head_bias, *cos, *sin;
    int64_t depth, hidden, inner, heads, groups, vocabulary, room, chunk, stride;
    float scale, eps;
} Model;

/* Where the next region of the work space begins: BLAS's sums depend on how what it reads is aligned. */
static inline float *after(float *region, int64_t rows, int64_t size) {
    return region + (rows * size + LANES - 1) / LANES * LANES;
}

/* Rows first to last - 1 take in a token each and give the logits of the next. ``work`` has room for so many rows of
   hidden twice, a scale, queries, keys and values twice, inner twice, and for the shares of TILE heads. */
void step(const Model *m, const int64_t *token, const int64_t *place, const int64_t *length, float *logits, float *work,
          int64_t first, int64_t last) {
    int rows = last - first, E = m->hidden, F = m->inner, Q = m->heads * SIZE, G = m->groups * SIZE;
    float *h = work, *x = after(h, rows, E), *scale = after(x, rows, E), *q = after(scale, rows, 1), *k = after(q, rows, Q);
    float *v = after(k, rows, G), *out = after(v, rows, G), *gate = after(out, rows, Q), *up = after(gate, rows, F);
    float *share = after(up, rows, F);
    if (m->threads) m->threads(1);
    for (int64_t row = 0; row < rows; row++)
        memcpy(h + row * E, m->embedding + token[first + row] * E, E * sizeof *h);
    for (const Layer *layer = m->layers; layer < m->layers + m->depth; layer++) {
        norm(h, layer->before, x, scale, 0, rows, E, m->eps);
        linear(m->sgemm, x, layer->q, layer->q_bias, q, rows, E, Q, 0);
        linear(m->sgemm, x, layer->k, layer->k_bias, k, rows, E, G, 0);
        linear(m->sgemm, x, layer->v, layer->v_bias, v, rows, E, G, 0);
        look_back(q, k, v, layer->q_norm, layer->k_norm, m->cos, m->sin, layer->keys, layer->values, place + first,
                  length + first, out, share, 0, rows, m->heads, m->groups, m->room, m->chunk, m->stride, layer->window, m->scale,
                  m->eps);
        linear(m->sgemm, out, layer->o, layer->o_bias, h, rows, Q, E, 1);
        norm(h, layer->after, x, scale, 0, rows, E, m->eps);
        linear(m->sgemm, x, layer->gate, layer->gate_bias, gate, rows, E, F, 0);
        linear(m->sgemm, x, layer->up, layer->up_bias, up, rows, E, F, 0);
        gated(gate, up, gate, 0, (int64_t)rows * F);
        linear(m->sgemm, gate, layer->down, layer->down_bias, h, rows, F, E, 1);
    }
    norm(h, m->last_norm, x, scale, 0, rows, E, m->eps);
    linear(m->sgemm, x, m->head, m->head_bias, logits + first * m->vocabulary, rows, E, m->vocabulary, 0);
    if (m->threads) m->threads(0);
}

static inline wide weights(const float *x, int64_t n, float top) {
    wide v = load(x, n) - top;
    return where((lane >= (int32_t)(n < LANES ? n : LANES)) | (v < zero - 87.0f), zero, power(v));
}

/* As in sampler.py. */
static inline double uniform(uint64_t seed, uint64_t position) {
    uint64_t x = seed + (position + 1) * 0x9E3779B97F4A7C15;
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9;
    x = (x ^ x >> 27) * 0x94D049BB133111EB;
    return ((x ^ x >> 31) >> 11) * 0x1p-53;
}

/* A token a row, where the running sum of e^(logit - the largest) passes the row's uniform number times the whole; LANES tokens at
   a time and then one by one, in double precision. */
void choose(const float *logits, const int64_t *seed, const int64_t *position, int64_t *token, float *logp, double *blocks,
            int64_t first, int64_t last, int64_t vocabulary) {
    for (int64_t row = first; row < last; row++) {
        const float *x = logits + row * vocabulary;
        wide best = zero - INFINITY, weight = zero;
        for (int64_t i = 0; i < vocabulary; i += LANES) {
            wide v = load(x + i, vocabulary - i);
            v = where(lane + (int32_t)i < (int32_t)vocabulary, v, zero - INFINITY);
            best = where(v > best, v, best);
        }
        float top = largest(best);
        double sum = 0.0;
        int64_t count = (vocabulary + LANES - 1) / LANES, block = 0, at = 0;
        for (int64_t b = 0; b < count; b++) {
            weight = weights(x + b * LANES, vocabulary - b * LANES, top);
            double own = 0.0;
            for (int i = 0; i < LANES; i++) own += weight[i];
            blocks[b] = sum += own;
        }
        double target = uniform(seed[row], position[row]) * sum, running[LANES], within = 0.0;
        while (block < count - 1 && !(blocks[block] > target)) block++;
        weight = weights(x + block * LANES, vocabulary - block * LANES, top);
        for (int i = 0; i < LANES; i++) running[i] = within += weight[i];
        double rest = block ? target - blocks[block - 1] : target, most = nextafter(within, 0.0);
        if (rest > most) rest = most; /* the two sums round apart: never beyond the last token that has any weight */
        while (at < LANES - 1 && !(running[at] > rest)) at++;
        at += block * LANES;
        token[row] = at < vocabulary ? at : vocabulary - 1;
        logp[row] = (x[token[row]] - top) - log(sum);
    }
}
