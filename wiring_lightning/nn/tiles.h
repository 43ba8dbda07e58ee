/* A matrix times a tile: some positions of many channels, [channel][TILE]; and small helpers.
 *
 * GCC and Clang compile this for any processor: their vectors of floats need no intrinsics.
 */
#pragma once
#include <stddef.h>

/* 16, which AVX-512 has, are slower: small images fill such vectors only in part. */
#if defined(__AVX__)
#define LANES 8
#else
#define LANES 4
#endif
#define TILE (2 * LANES) /* positions */
#define UNROLL 4

typedef float Floats __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int Ints __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

static inline long larger(long a, long b) { return a > b ? a : b; }

static inline long smaller(long a, long b) { return a < b ? a : b; }

static inline long rounded(long number, long step) { return (number + step - 1) / step * step; }

/* The next part of a piece of memory, which is NULL while it is only measured. */
static inline float *take(float *piece, long *at, long count)
{
    float *part = piece ? piece + *at : NULL;
    *at += rounded(count, 16);
    return part;
}

/* NaN stays NaN. */
static inline Floats rectified(Floats x) { return (Floats)((Ints)x & ~(Ints)(x < (Floats){0})); }

/* A matrix times rows of TILE numbers. */
typedef struct {
    long rows, count, step;          /* of the matrix; floats from row to row */
    const float *weight, *bias;      /* without a bias it is NULL */
    const float *left, *right;       /* both halves of the first row of inputs */
    const long *taps;                /* where the others are; NULL: each behind the one before */
    const float *own;                /* rows that are added, or NULL */
    float identity;                  /* the factor of these */
    int rectify;
    float *out;
} Product;

/* x86 multiplies by what is in memory, so GCC would load the inputs again for every row. */
#if defined(__x86_64__)
#define IN_REGISTERS(a, b) __asm__("" : "+x"(a), "+x"(b))
#else
#define IN_REGISTERS(a, b)
#endif

static inline __attribute__((always_inline)) void some_rows(int rows, long r, Product x)
{
    Floats sum[UNROLL][2] = {{{0}}};
    for (int i = 0; i < rows; i++)
        for (int half = 0; half < 2; half++) {
            long at = (r + i) * TILE + half * LANES;
            if (x.own) sum[i][half] = x.identity * *(const Floats *)(x.own + at);
            if (x.bias) sum[i][half] += x.bias[r + i];
        }
    const float *weight = x.weight + r * x.step;
    for (long c = 0; c < x.count; c++) {
        long at = x.taps ? x.taps[c] : c * TILE;
        Floats left = *(const Floats *)(x.left + at), right = *(const Floats *)(x.right + at);
        IN_REGISTERS(left, right);
        for (int i = 0; i < rows; i++) {
            sum[i][0] += weight[i * x.step + c] * left;
            sum[i][1] += weight[i * x.step + c] * right;
        }
    }
    for (int i = 0; i < rows; i++)
        for (int half = 0; half < 2; half++) {
            Floats result = x.rectify ? rectified(sum[i][half]) : sum[i][half];
            *(Floats *)(x.out + (r + i) * TILE + half * LANES) = result;
        }
}

static inline __attribute__((always_inline)) void multiply(Product x)
{
    long r = 0;
    for (; r + UNROLL <= x.rows; r += UNROLL) some_rows(UNROLL, r, x);
    for (; r < x.rows; r++) some_rows(1, r, x);
}

/* Some numbers, most often as many as a vector has. */
static inline void copy(float *out, const float *in, long count)
{
    if (count == LANES)
        *(Floats *)out = *(const Floats *)in;
    else
        for (long i = 0; i < count; i++) out[i] = in[i];
}
