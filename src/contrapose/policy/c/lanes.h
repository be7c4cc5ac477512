/* Rows of float32 values on a CPU, LANES side by side; heads have SIZE values.

   Every sum runs in one order, product and sum rounded apart (compile with -ffp-contract=off), so that torch can give the same
   bits where there is no compiler: fused.py, attention.py, look_back.py and sampler.py say how. A sum over the values of a row is
   taken LANES or NARROW side by side, and then folded in halves. */

#include <math.h>
#include <stdint.h>
#include <string.h>

#define LANES 16
#define NARROW 8
#define PARTS ((SIZE + LANES - 1) / LANES)
#define TILE (PARTS > 4 ? 2 : 4) /* as many sums of SIZE values form side by side */
#define WIDTH (PARTS * LANES)
#define HALF (SIZE / 2)
typedef float wide __attribute__((vector_size(64), aligned(4), may_alias));
typedef float narrow __attribute__((vector_size(32), aligned(4), may_alias));
typedef int32_t whole __attribute__((vector_size(64)));

static const wide zero = {0};
static const whole lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

/* The first n values, or LANES of them; zeros beyond. */
static inline wide load(const float *x, int64_t n) {
    if (n >= LANES) return *(const wide *)x;
    wide found = zero;
    memcpy(&found, x, n * sizeof *x);
    return found;
}

static inline void store(float *x, wide value, int64_t n) {
    if (n >= LANES)
        *(wide *)x = value;
    else
        memcpy(x, &value, n * sizeof *x);
}

static inline wide where(whole is, wide yes, wide no) { return (wide)((is & (whole)yes) | (~is & (whole)no)); }

static inline float folded(const float y[NARROW]) {
    float four[4], two[2];
    for (int i = 0; i < 4; i++) four[i] = y[i] + y[i + 4];
    for (int i = 0; i < 2; i++) two[i] = four[i] + four[i + 2];
    return two[0] + two[1];
}

/* The sum of all lanes, folded in halves. */
static inline float total(wide x) {
    float y[LANES], half[NARROW];
    memcpy(y, &x, sizeof y);
    for (int i = 0; i < NARROW; i++) half[i] = y[i] + y[i + NARROW];
    return folded(half);
}

static inline float largest(wide x) {
    float y[LANES];
    memcpy(y, &x, sizeof y);
    for (int half = NARROW; half; half /= 2)
        for (int i = 0; i < half; i++) y[i] = y[i] > y[i + half] ? y[i] : y[i + half];
    return y[0];
}

/* e^x for x <= 0, to two units in the last place; 2^-125 for all that is smaller. */
static inline wide power(wide x) {
    x = where(x < zero - 87.0f, zero - 87.0f, x);
    wide n = (x * 1.44269504f + 12582912.0f) - 12582912.0f;
    wide r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
    wide p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = (p * (r * r) + r) + 1.0f;
    whole bits = (__builtin_convertvector(n, whole) + 127) << 23;
    return p * (wide)bits;
}

/* 1 / sqrt(mean(x^2) + eps); NARROW sums side by side. */
static inline float scale_of(const float *x, int64_t size, float eps) {
    narrow sums = {0};
    float y[NARROW];
    int64_t i = 0;
    for (; i + NARROW <= size; i += NARROW) sums += *(const narrow *)(x + i) * *(const narrow *)(x + i);
    memcpy(y, &sums, sizeof y);
    for (; i < size; i++) y[i % NARROW] += x[i] * x[i];
    return 1.0f / sqrtf(folded(y) / size + eps);
}

/* A head: normalised if there are weights, then rotated; sin is negated in its first half. */
static inline float turn_head(const float *restrict x, const float *restrict w, const float *restrict cos,
                              const float *restrict sin, float *restrict out, float eps) {
    float y[SIZE], s = 1.0f;
    if (w) s = scale_of(x, SIZE, eps);
    for (int d = 0; d < SIZE; d++) y[d] = w ? (x[d] * s) * w[d] : x[d];
    for (int d = 0; d < HALF; d++) {
        out[d] = y[d] * cos[d] + y[d + HALF] * sin[d];
        out[d + HALF] = y[d + HALF] * cos[d + HALF] + y[d] * sin[d + HALF];
    }
    return s;
}

/* Softmax of the scores of columns from to seen - 1, not yet divided by what is returned; zero is what else there is from start
   to stop. */
static inline float softmax(float *share, int64_t from, int64_t seen, int64_t start, int64_t stop) {
    wide top = zero - INFINITY, sum = zero;
    for (int64_t s = start; s < stop; s += LANES) {
        wide x = *(wide *)(share + s);
        whole column = lane + (int32_t)s, hidden = (column < (int32_t)from) | (column >= (int32_t)seen);
        x = where(hidden, zero - INFINITY, x);
        *(wide *)(share + s) = x;
        top = where(x > top, x, top);
    }
    float most = largest(top);
    for (int64_t s = start; s < stop; s += LANES) {
        wide x = *(wide *)(share + s), e = where(x == zero - INFINITY, zero, power(x - most));
        *(wide *)(share + s) = e;
        sum += e;
    }
    return total(sum);
}
