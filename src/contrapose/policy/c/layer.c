/* Norms, gates and rotations of tokens first to last - 1, and their ways back. */

#include "lanes.h"

/* out = (x * scale) * w, row by row. */
void norm(const float *x, const float *w, float *out, float *scale, int64_t first, int64_t last, int64_t size, float eps) {
    for (int64_t row = first; row < last; row++) {
        const float *X = x + row * size;
        float s = scale[row] = scale_of(X, size, eps);
        for (int64_t i = 0; i < size; i++) out[row * size + i] = (X[i] * s) * w[i];
    }
}

/* The way back of a row, which adds to dw. */
static inline void norm_row_back(const float *g, const float *x, const float *w, float s, float *dx, float *dw, int64_t size) {
    narrow sums = {0};
    float y[NARROW];
    int64_t n = 0;
    for (; n + NARROW <= size; n += NARROW)
        sums += (*(const narrow *)(g + n) * *(const narrow *)(w + n)) * (*(const narrow *)(x + n) * s);
    memcpy(y, &sums, sizeof y);
    for (; n < size; n++) y[n % NARROW] += (g[n] * w[n]) * (x[n] * s);
    float a = folded(y) / size;
    for (int64_t i = 0; i < size; i++) {
        float u = x[i] * s, d = g[i];
        dw[i] += d * u;
        dx[i] = ((d * w[i]) - u * a) * s;
    }
}

/* The sums of LANES rows, folded in halves. */
static void fold_rows(float *rows, float *dw, int64_t size) {
    for (int64_t half = LANES / 2; half; half /= 2)
        for (int64_t i = 0; i < half * size; i++) rows[i] += rows[i + half * size];
    memcpy(dw, rows, size * sizeof *dw);
}

/* Row r adds to one of LANES sums, the one of number r % LANES; so do heads below. */
void norm_back(const float *g, const float *x, const float *w, const float *scale, float *dx, float *dw, int64_t first,
               int64_t last, int64_t size) {
    float sums[LANES * size];
    memset(sums, 0, sizeof sums);
    for (int64_t row = first; row < last; row++)
        norm_row_back(g + row * size, x + row * size, w, scale[row], dx + row * size, sums + row % LANES * size, size);
    fold_rows(sums, dw, size);
}

static inline wide sigmoid(wide x) {
    wide e = power((wide)((whole)x | INT32_MIN)), r = 1.0f / (e + 1.0f); /* -|x| has its sign bit set */
    return where(x < zero, e * r, r);
}

/* out = silu(gate) * up */
void gated(const float *gate, const float *up, float *out, int64_t first, int64_t last) {
    for (int64_t i = first; i < last; i += LANES) {
        wide g = load(gate + i, last - i), u = load(up + i, last - i);
        store(out + i, (g * sigmoid(g)) * u, last - i);
    }
}

void gated_back(const float *grad, const float *gate, const float *up, float *d_gate, float *d_up, int64_t first, int64_t last) {
    for (int64_t i = first; i < last; i += LANES) {
        wide d = load(grad + i, last - i), g = load(gate + i, last - i), u = load(up + i, last - i);
        wide s = sigmoid(g), a = g * s;
        store(d_up + i, d * a, last - i);
        store(d_gate + i, (d * u) * (s + a * (1.0f - s)), last - i);
    }
}

/* Tokens first to last - 1, whose angles are those of their positions. */
void turn(const float *x, const float *w, const float *cos, const float *sin, const int64_t *position, float *out, float *scale,
          int64_t first, int64_t last, int64_t heads, float eps) {
    for (int64_t row = first; row < last; row++) {
        const float *c = cos + position[row] * SIZE, *s = sin + position[row] * SIZE;
        for (int64_t head = row * heads; head < (row + 1) * heads; head++)
            scale[head] = turn_head(x + head * SIZE, w, c, s, out + head * SIZE, eps);
    }
}

void turn_back(const float *g, const float *x, const float *w, const float *cos, const float *sin, const int64_t *position,
               const float *scale, float *dx, float *dw, int64_t first, int64_t last, int64_t heads) {
    float sums[LANES * SIZE] = {0};
    for (int64_t row = first; row < last; row++) {
        const float *c = cos + position[row] * SIZE, *s = sin + position[row] * SIZE;
        for (int64_t head = row * heads; head < (row + 1) * heads; head++) {
            const float *restrict G = g + head * SIZE;
            float back[SIZE], *restrict y = w ? back : dx + head * SIZE;
            for (int d = 0; d < HALF; d++) {
                y[d] = G[d] * c[d] + G[d + HALF] * s[d + HALF];
                y[d + HALF] = G[d + HALF] * c[d + HALF] + G[d] * s[d];
            }
            if (w) norm_row_back(y, x + head * SIZE, w, scale[head], dx + head * SIZE, sums + head % LANES * SIZE, SIZE);
        }
    }
    if (w) fold_rows(sums, dw, SIZE);
}
