/* The separate branches of a compact ResNeXt, image by image, on one thread.
 *
 * A chain begins with the state that all branches of a module read, and ends with the sum over the
 * branches of a later module. In between, every branch has a state of its own, a stream.
 * A few positions of all streams, a tile, are expanded, summed, rectified and reduced before the
 * next tile, so they stay in the nearest cache. Streams are stored as [tile][channels / BLOCK]
 * [stream][BLOCK][TILE], in the order in which they are read, and are written over. Rows of images
 * are filled up to whole vectors, and the last tile, too; what comes out there is read by nobody.
 */
#include <stdlib.h>
#include <string.h>

#include "tiles.h"

#define BLOCK 8 /* channels; the number of channels of a stream is a multiple of it */

typedef struct {
    long into;                              /* channels of its inputs */
    long branches, width, channels, stride;
    long height, columns;                   /* of its inputs */
    long row, plane;                        /* floats from its row to row, and channel to channel */
    long high, wide, pitch;                 /* of its outputs, and floats from row to row */
    long sums;                              /* how many different sums the next module reads */
    const long *sources;                    /* of each sum: how many branches, and which */
    const float *factors;                   /* of these branches */
    const long *sum_of;                     /* for each branch of the next module */
    float identity;                         /* the factor of the streams in its outputs */
    const float *reduce, *reduce_bias;      /* [branches * width][into] */
    const float *project, *project_bias;    /* of its streams, [channels][into], or NULL */
    const float *spatial, *spatial_bias;    /* [branches * width][width][3][3] */
    const float *expand, *expand_bias;      /* [branches * channels][width]; the last one's sum
                                               is [channels][branches * width] */
    float *reduce_blocks;                   /* [into / BLOCK][branches * width][BLOCK] */
} Module;

typedef struct {
    float *entered;          /* the inputs of the first module at a tile, [into][TILE] */
    float *padded;           /* of one branch, for the 3 x 3 convolution */
    float *narrow, *hidden;  /* what these convolutions read; what they give, [tile][row][TILE] */
    float *streams, *kept;   /* kept: the positions that a projection reads, [tile][row][TILE] */
    float *expanded, *reduced;
    long *taps;              /* where a 3 x 3 convolution finds its inputs */
    long stream_count;
} Memory;

/* Positions of a module's outputs, with what fills up the rows and the last tile. */
static long positions(const Module *m) { return rounded(m->high * m->pitch, TILE); }

/* A row of a stream in the tile that begins at a position. */
static float *stream(const Memory *memory, long channels, long number, long channel, long p)
{
    long block = p * channels + channel / BLOCK * BLOCK * TILE;
    long row = number * BLOCK + channel % BLOCK;
    return memory->streams + block * memory->stream_count + row * TILE;
}

/* The images that one branch's 3 x 3 convolution reads, padded. With a stride each is split into
 * one for each remainder of a position. */
static void pad(const Module *m, const float *in, long size, float *padded)
{
    long stride = m->stride, step = m->wide + 2, plane = (m->high + 2) * step;
    for (long i = 0; i < m->width; i++, in += m->plane, padded += size)
        for (long y = 1; y <= m->height; y++) {
            const float *from = in + (y - 1) * m->row;
            float *to = padded + y / stride * step + y % stride * stride * plane;
            if (stride == 1)
                memcpy(to + 1, from, m->columns * sizeof(float));
            else
                for (long s = 0; s < stride; s++) {
                    float *part = to + s * plane + (s == 0);
                    for (long x = s ? s : stride; x <= m->columns; x += stride)
                        *part++ = from[x - 1];
                }
        }
}

/* 3 x 3 convolutions with padding, bias and ReLU, to memory->hidden.
 *
 * A padded image is a row of numbers, and a tap of the kernel is a place in it. */
static void convolve(const Module *m, const Memory *memory)
{
    long stride = m->stride, width = m->width, step = m->wide + 2, plane = (m->high + 2) * step;
    long size = stride * stride * plane + TILE;
    for (long i = 0; i < width; i++)
        for (long y = 0; y < 3; y++)
            for (long x = 0; x < 3; x++)
                memory->taps[(i * 3 + y) * 3 + x] = i * size + y / stride * step + x / stride +
                                                    (y % stride * stride + x % stride) * plane;
    memset(memory->padded, 0, width * size * sizeof(float));
    for (long b = 0; b < m->branches; b++) {
        pad(m, memory->narrow + b * width * m->plane, size, memory->padded);
        for (long p = 0; p < m->high * m->pitch; p += TILE) {
            long second = p + LANES < m->high * m->pitch ? p + LANES : p;
            multiply((Product){
                .rows = width, .count = width * 9, .step = width * 9,
                .weight = m->spatial + b * width * width * 9, .bias = m->spatial_bias + b * width,
                .left = memory->padded + p / m->pitch * step + p % m->pitch,
                .right = memory->padded + second / m->pitch * step + second % m->pitch,
                .taps = memory->taps, .rectify = 1,
                .out = memory->hidden + (p * m->branches + b * TILE) * width});
        }
    }
}

/* One block of channels of all branches' outputs at a tile, to memory->expanded,
 * [branch][BLOCK][TILE]. */
static void expand(const Module *m, const long *stream_of, long p, long channel,
                   const Memory *memory)
{
    const float *hidden = memory->hidden + p * m->branches * m->width;
    for (long k = 0; k < m->branches; k++, hidden += m->width * TILE)
        multiply((Product){
            .rows = BLOCK, .count = m->width, .step = m->width,
            .weight = m->expand + (k * m->channels + channel) * m->width,
            .bias = m->expand_bias + k * m->channels + channel,
            .left = hidden, .right = hidden + LANES,
            .own = stream(memory, m->channels, stream_of ? stream_of[k] : 0, channel, p),
            .identity = m->identity, .out = memory->expanded + k * BLOCK * TILE});
}

/* The ReLU of a weighted sum of branches' outputs. */
static void add_up(long count, const long *source, const float *factor, const float *expanded,
                   float *out)
{
    for (long i = 0; i < BLOCK * TILE; i += 4 * LANES) {
        Floats total[4] = {{0}};
        for (long k = 0; k < count; k++) {
            const float *from = expanded + source[k] * BLOCK * TILE + i;
            for (int part = 0; part < 4; part++)
                total[part] += factor[k] * *(const Floats *)(from + part * LANES);
        }
        for (int part = 0; part < 4; part++)
            *(Floats *)(out + i + part * LANES) = rectified(total[part]);
    }
}

/* From memory->hidden of a module to memory->narrow of the next one; the streams become its own. */
static void connect(const Module *m, const long *stream_of, const Memory *memory)
{
    const Module *next = m + 1;
    long channels = m->channels, narrow = next->branches * next->width, size = positions(m);
    float sum[BLOCK * TILE] __attribute__((aligned(64)));
    for (long p = 0; p < size; p += TILE) {
        long kept = 0, from[TILE], to[TILE];
        for (long t = 0; next->project && t < TILE; t++) {
            long y = (p + t) / m->pitch, x = (p + t) % m->pitch;
            if (y >= m->high || x >= m->wide || y % next->stride || x % next->stride) continue;
            long place = y / next->stride * next->pitch + x / next->stride;
            from[kept] = t;
            to[kept++] = place / TILE * TILE * m->sums * channels + place % TILE;
        }
        for (long r = 0; r < narrow; r++)
            for (int t = 0; t < TILE; t++) memory->reduced[r * TILE + t] = next->reduce_bias[r];
        for (long c = 0; c < channels; c += BLOCK) {
            expand(m, stream_of, p, c, memory);
            const long *sources = m->sources;
            const float *factors = m->factors;
            for (long u = 0; u < m->sums; u++) {
                long count = *sources++;
                add_up(count, sources, factors, memory->expanded, sum);
                sources += count, factors += count;
                if (!next->project)
                    memcpy(stream(memory, channels, u, c, p), sum, sizeof(sum));
                float *rows = memory->kept + (u * channels + c) * TILE;
                for (long i = 0; i < kept; i++)
                    for (long r = 0; r < BLOCK; r++)
                        rows[to[i] + r * TILE] = sum[from[i] + r * TILE];
                for (long k = 0; k < next->branches; k++) {
                    if (m->sum_of[k] != u) continue;
                    float *out = memory->reduced + k * next->width * TILE;
                    multiply((Product){
                        .rows = next->width, .count = BLOCK, .step = BLOCK,
                        .weight = next->reduce_blocks + c * narrow + k * next->width * BLOCK,
                        .left = sum, .right = sum + LANES, .own = out, .identity = 1, .out = out});
                }
            }
        }
        for (long r = 0; r < narrow; r++)
            for (long t = 0; t < TILE; t += LANES)
                *(Floats *)(memory->narrow + r * size + p + t) =
                    rectified(*(const Floats *)(memory->reduced + r * TILE + t));
    }
}

/* The streams of the next module, whose number of channels or of positions is another one. */
static void project(const Module *m, const Memory *memory)
{
    const Module *next = m + 1;
    for (long p = 0; p < positions(next); p += TILE)
        for (long u = 0; u < m->sums; u++) {
            const float *in = memory->kept + (p * m->sums + u * TILE) * m->channels;
            for (long c = 0; c < next->channels; c += BLOCK)
                multiply((Product){
                    .rows = BLOCK, .count = m->channels, .step = m->channels,
                    .weight = next->project + c * m->channels, .bias = next->project_bias + c,
                    .left = in, .right = in + LANES,
                    .out = stream(memory, next->channels, u, c, p)});
        }
}

/* Writes what reads a block of channels, of a module's weights, in one row of numbers. */
static void order_weights(const Module *m)
{
    float *to = m->reduce_blocks;
    for (long c = 0; c < m->into; c += BLOCK)
        for (long r = 0; r < m->branches * m->width; r++, to += BLOCK)
            memcpy(to, m->reduce + r * m->into + c, BLOCK * sizeof(float));
}

/* Divides a piece of memory among all parts. Returns how many floats they take. */
static long divide(Memory *memory, Module *modules, long count, float *piece)
{
    long padded = 0, narrow = 0, hidden = 0, streams = 0, kept = 0, reduced = 0;
    long branches = 0, width = 0, at = 0;
    memory->stream_count = 1;
    for (Module *m = modules; m < modules + count; m++) {
        long inner = m->branches * m->width;
        if (m > modules) {
            m->reduce_blocks = take(piece, &at, inner * m->into);
            kept = larger(kept, m[-1].sums * m->into * positions(m));
        }
        narrow = larger(narrow, inner * m->plane);
        long image = m->stride * m->stride * (m->high + 2) * (m->wide + 2);
        padded = larger(padded, m->width * (image + TILE));
        hidden = larger(hidden, inner * positions(m));
        streams = larger(streams, m->channels * positions(m));
        reduced = larger(reduced, inner * TILE);
        branches = larger(branches, m->branches);
        width = larger(width, m->width);
        memory->stream_count = larger(memory->stream_count, m->sums);
    }
    memory->entered = take(piece, &at, modules->into * TILE);
    memory->padded = take(piece, &at, padded);
    memory->narrow = take(piece, &at, narrow);
    memory->hidden = take(piece, &at, hidden);
    memory->streams = take(piece, &at, streams * memory->stream_count);
    memory->kept = take(piece, &at, kept);
    memory->expanded = take(piece, &at, branches * BLOCK * TILE);
    memory->reduced = take(piece, &at, reduced);
    memory->taps = (long *)take(piece, &at, 2 * 9 * width);
    return at;
}

/* A module: its sums, factors and weights are the next ones of each list. */
static void read_module(Module *m, int last, const long *sizes, const long **sums,
                        const float **factors, const float *const **weights)
{
    memset(m, 0, sizeof(*m));
    m->branches = sizes[0], m->width = sizes[1], m->channels = sizes[2], m->stride = sizes[3];
    m->reduce = *(*weights)++, m->reduce_bias = *(*weights)++;
    m->project = *(*weights)++, m->project_bias = *(*weights)++;
    m->spatial = *(*weights)++, m->spatial_bias = *(*weights)++;
    m->expand = *(*weights)++, m->expand_bias = *(*weights)++;
    m->identity = *(*factors)++, m->factors = *factors;
    if (last) return;
    m->sums = *(*sums)++, m->sources = *sums;
    for (long u = 0; u < m->sums; u++) *factors += **sums, *sums += 1 + **sums;
    long targets = *(*sums)++;
    m->sum_of = *sums, *sums += targets;
}

/* What the 3 x 3 convolutions of the first module read, to memory->narrow. */
static void enter(const Module *m, const float *state, const Memory *memory)
{
    long inner = m->branches * m->width;
    for (long p = 0; p < m->plane; p += TILE) {
        long bytes = smaller(TILE, m->plane - p) * sizeof(float);
        for (long c = 0; c < m->into; c++)
            memcpy(memory->entered + c * TILE, state + c * m->plane + p, bytes);
        multiply((Product){
            .rows = inner, .count = m->into, .step = m->into, .weight = m->reduce,
            .bias = m->reduce_bias, .left = memory->entered, .right = memory->entered + LANES,
            .rectify = 1, .out = memory->reduced});
        for (long r = 0; r < inner; r++)
            memcpy(memory->narrow + r * m->plane + p, memory->reduced + r * TILE, bytes);
    }
}

/* The state that all branches of the first module share becomes the only stream. */
static void begin(const Module *m, const float *state, const Memory *memory)
{
    for (long p = 0; p < positions(m); p += TILE) {
        for (long half = 0; half < TILE && p + half < m->high * m->pitch; half += LANES) {
            long y = (p + half) / m->pitch, x = (p + half) % m->pitch;
            long count = smaller(LANES, m->wide - x);
            const float *from = state + (y * m->columns + x) * m->stride;
            for (long c = 0; c < m->into; c++, from += m->plane) {
                float *to = memory->entered + c * TILE + half;
                if (m->stride == 1)
                    copy(to, from, count);
                else
                    for (long i = 0; i < count; i++) to[i] = from[i * m->stride];
            }
        }
        for (long c = 0; c < m->channels; c += BLOCK) {
            float *out = stream(memory, m->channels, 0, c, p);
            if (!m->project)
                memcpy(out, memory->entered + c * TILE, BLOCK * TILE * sizeof(float));
            else
                multiply((Product){
                    .rows = BLOCK, .count = m->into, .step = m->into,
                    .weight = m->project + c * m->into, .bias = m->project_bias + c,
                    .left = memory->entered, .right = memory->entered + LANES, .out = out});
        }
    }
}

/* The sum over the branches of the last module. */
static void merge(const Module *m, const long *stream_of, const Memory *memory, float *out)
{
    long inner = m->branches * m->width, plane = m->high * m->wide;
    float sum[BLOCK * TILE];
    for (long p = 0; p < positions(m); p += TILE)
        for (long c = 0; c < m->channels; c += BLOCK) {
            memset(sum, 0, sizeof(sum));
            for (long k = 0; k < m->branches; k++) {
                const float *own = stream(memory, m->channels, stream_of[k], c, p);
                for (long i = 0; i < BLOCK * TILE; i++) sum[i] += own[i];
            }
            const float *hidden = memory->hidden + p * inner;
            multiply((Product){
                .rows = BLOCK, .count = inner, .step = inner,
                .weight = m->expand + c * inner, .bias = m->expand_bias + c,
                .left = hidden, .right = hidden + LANES, .own = sum, .identity = m->identity,
                .out = sum});
            for (long half = 0; half < TILE && p + half < m->high * m->pitch; half += LANES) {
                long y = (p + half) / m->pitch, x = (p + half) % m->pitch;
                for (long r = 0; r < BLOCK; r++)
                    copy(out + (c + r) * plane + y * m->wide + x, sum + r * TILE + half,
                         smaller(LANES, m->wide - x));
            }
        }
}

static void run_image(const Module *first, const Module *last, const float *state, float *out,
                      const Memory *memory)
{
    enter(first, state, memory);
    begin(first, state, memory);
    const long *stream_of = NULL; /* all branches of the first module read the same one */
    for (const Module *m = first; m < last; m++) {
        convolve(m, memory);
        connect(m, stream_of, memory);
        if (m[1].project) project(m, memory);
        stream_of = m->sum_of;
    }
    convolve(last, memory);
    merge(last, stream_of, memory, out);
}

/* Some images through a chain of at least two modules. Returns 1 if there is no memory, else 0.
 *
 * channels, height, columns: of the state.
 * sizes: branches, width, channels and stride of each module.
 * sums: for each module but the last the number of sums that the next one reads; for each sum the
 *     number of its branches and which; the next module's number of branches, and which sum each
 *     of them reads.
 * factors: for each module the factor of its streams, and those of its sums' branches.
 * weights: for each module those of `Module`, in the order in which they are there.
 * state: [image][channels][height * columns], what all branches of the first module read.
 * out: [image][channels][positions], the sum over the branches of the last module.
 */
int branch_chain(long images, long count, long channels, long height, long columns,
                 const long *sizes, const long *sums, const float *factors,
                 const float *const *weights, const float *state, float *out)
{
    Module *modules = malloc(count * sizeof(Module));
    if (!modules) return 1;
    long read = channels * height * columns;
    int filled_up = height * columns % TILE != 0;
    for (Module *m = modules; m < modules + count; m++) {
        read_module(m, m == modules + count - 1, sizes, &sums, &factors, &weights);
        sizes += 4;
        m->into = m == modules ? channels : m[-1].channels;
        m->height = height, m->columns = columns;
        m->row = m == modules ? columns : m[-1].pitch;
        m->plane = m == modules ? height * columns : positions(m - 1);
        m->high = height = (height - 1) / m->stride + 1;
        m->wide = columns = (columns - 1) / m->stride + 1;
        m->pitch = rounded(m->wide, LANES);
        filled_up |= positions(m) > m->high * m->wide;
    }
    Memory memory;
    size_t bytes = divide(&memory, modules, count, NULL) * sizeof(float);
    float *piece = malloc(bytes);
    if (piece) {
        if (filled_up) memset(piece, 0, bytes); /* some processors are slow with denormal numbers */
        divide(&memory, modules, count, piece);
        const Module *first = modules, *last = modules + count - 1;
        for (const Module *m = first + 1; m <= last; m++) order_weights(m);
        long written = last->channels * last->high * last->wide;
        for (long n = 0; n < images; n++)
            run_image(first, last, state + n * read, out + n * written, &memory);
    }
    free(piece);
    free(modules);
    return !piece;
}
