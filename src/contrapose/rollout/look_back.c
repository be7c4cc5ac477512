/* Attention of one new token of each row to the row's past: the innermost loop of decoding on a CPU.

   A block is a row and one of its key-value heads. Keys lie 16 columns at a time, head dimension by head dimension, so that
   16 scores form side by side; values lie column by column. What is read lies dense, block after block. Every sum runs in one order, product and sum rounded apart
   (compile with -ffp-contract=off), so that look_back.py gets the same bits from torch. */

#include <stdint.h>
#include <string.h>

#define LANES 16
#define PARTS ((SIZE + LANES - 1) / LANES)
typedef float wide __attribute__((vector_size(64), aligned(4), may_alias));
typedef int32_t whole __attribute__((vector_size(64)));

/* e^x for x <= 0, to two units in the last place; 2^-125 for all that is smaller. */
static inline wide power(wide x) {
    const wide zero = {0};
    whole low = x < zero - 87.0f;
    x = (wide)((low & (whole)(zero - 87.0f)) | (~low & (whole)x));
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

/* Rows first to last - 1: append k and v at column length[n], then attend to it and at most window - 1 columns before.
   Columns lie in chunks of so many; a chunk of all blocks is followed, stride floats on, by the next chunk of all. */
void look_back(const float *q, const float *k, const float *v, float *keys, float *values, const int64_t *length, float *out,
               float *share, int64_t first, int64_t last, int64_t groups, int64_t chunk, int64_t stride, int64_t window,
               float scale) {
    const wide zero = {0};
    for (int64_t block = first * groups; block < last * groups; block++) {
        int64_t at = length[block / groups], seen = at + 1, from = seen > window ? seen - window : 0;
        float *K = keys + block * chunk * SIZE, *V = values + block * chunk * SIZE;
        float *here = K + at / chunk * stride + at % chunk / LANES * LANES * SIZE + at % LANES;
        for (int64_t d = 0; d < SIZE; d++) here[d * LANES] = k[block * SIZE + d];
        memcpy(V + at / chunk * stride + at % chunk * SIZE, v + block * SIZE, SIZE * sizeof *v);
        for (int64_t h = 0; h < HEADS; h++) {
            const float *Q = q + (block * HEADS + h) * SIZE;
            for (int64_t s = from / LANES * LANES; s < seen; s += LANES) {
                const float *Ks = K + s / chunk * stride + s % chunk * SIZE;
                wide score = zero;
                for (int64_t d = 0; d < SIZE; d++) score += Q[d] * *(const wide *)(Ks + d * LANES);
                *(wide *)(share + s) = score * scale;
            }
            float top = share[from], total = 0.0f;
            for (int64_t s = from; s < seen; s++) top = share[s] > top ? share[s] : top;
            for (int64_t s = from / LANES * LANES; s < seen; s += LANES)
                *(wide *)(share + s) = power(*(wide *)(share + s) - top);
            wide sum[PARTS];
            for (int i = 0; i < PARTS; i++) sum[i] = zero;
            for (int64_t start = from; start < seen;) {
                int64_t stop = (start / chunk + 1) * chunk;
                if (stop > seen) stop = seen;
                const float *Vs = V + start / chunk * stride + start % chunk * SIZE;
                for (int64_t s = start; s < stop; s++, Vs += SIZE) {
                    total += share[s];
                    for (int i = 0; i < PARTS; i++) sum[i] += share[s] * *(const wide *)(Vs + i * LANES);
                }
                start = stop;
            }
            float o[PARTS * LANES];
            for (int i = 0; i < PARTS; i++) *(wide *)(o + i * LANES) = sum[i] / total;
            memcpy(out + (block * HEADS + h) * SIZE, o, SIZE * sizeof *o);
        }
    }
}
