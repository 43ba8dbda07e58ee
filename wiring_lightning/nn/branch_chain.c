/* The separate branches of a compact ResNeXt, image by image, on one thread.
 *
 * A chain begins with what the 3 x 3 convolutions of a module read, and ends with what the 1 x 1
 * convolutions of a later module expand. In between, every branch has a state of its own, a stream.
 * A few positions of all streams, a tile, are expanded, summed, rectified and reduced before the
 * next tile, so they stay in the nearest cache. Streams are stored as [tile][channels / BLOCK]
 * [stream][BLOCK][TILE], in the order in which they are read, and are written over. What is behind
 * the last position of a tile is computed, too, and read by nobody.
 *
 * GCC and Clang compile this for any processor: their vectors of floats need no intrinsics.
 */
#include <stdlib.h>
#include <string.h>

#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX__)
#define LANES 8
#else
#define LANES 4
#endif
#define TILE (2 * LANES) /* positions */
#define BLOCK 8          /* channels; the number of channels of a stream is a multiple of it */
#define UNROLL 4

typedef float Floats __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int Ints __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

typedef struct {
    long branches, width, channels, stride;
    long height, columns;                   /* of what its 3 x 3 convolutions read */
    long high, wide;                        /* of what they give */
    long sums;                              /* how many different sums the next module reads */
    const long *sources;                    /* of each sum: how many branches, and which */
    const float *factors;                   /* of these branches */
    const long *sum_of;                     /* for each branch of the next module */
    float identity;                         /* the factor of the streams in its outputs */
    const float *spatial, *spatial_bias;    /* [branches * width][width][3][3] */
    const float *expand, *expand_bias;      /* [branches * channels][width] */
    const float *reduce, *reduce_bias;      /* of the next module, [branches * width][channels] */
    const float *project, *project_bias;    /* of the next module's streams, or NULL */
    float *expand_blocks, *reduce_blocks;   /* the two in the order in which they are read */
} Module;

typedef struct {
    float *padded, *flat;    /* of one branch, for the 3 x 3 convolution */
    float *narrow, *hidden;  /* what these convolutions read; what they give, [tile][row][TILE] */
    float *streams, *kept;   /* kept: the positions that a projection reads */
    float *tile, *expanded, *reduced;
    long *taps, *rows;       /* where a product finds its inputs */
    long stream_count, row_count;
} Memory;

static long larger(long a, long b) { return a > b ? a : b; }

static long tiles(long positions) { return (positions + TILE - 1) / TILE; }

/* How many positions a tile has. */
static long left(long positions, long p) { return positions - p < TILE ? positions - p : TILE; }

/* A row of a stream in the tile that begins at a position. */
static float *stream(const Memory *memory, long channels, long number, long channel, long p)
{
    long block = p * channels + channel / BLOCK * BLOCK * TILE;
    long row = number * BLOCK + channel % BLOCK;
    return memory->streams + block * memory->stream_count + row * TILE;
}

/* NaN stays NaN. */
static inline Floats rectified(Floats x) { return (Floats)((Ints)x & ~(Ints)(x < (Floats){0})); }

/* out[r] += sum over i of weight[r][i] * in[offset[i]], for rows of TILE numbers. */
static inline __attribute__((always_inline)) void
add_rows(int rows, long count, const float *weight, long step, const float *in, const long *offset,
         float *out, long out_step)
{
    Floats sum[UNROLL][2];
    for (int r = 0; r < rows; r++)
        for (int half = 0; half < 2; half++)
            sum[r][half] = *(const Floats *)(out + r * out_step + half * LANES);
    for (long i = 0; i < count; i++) {
        Floats left = *(const Floats *)(in + offset[i]);
        Floats right = *(const Floats *)(in + offset[i] + LANES);
        for (int r = 0; r < rows; r++) {
            sum[r][0] += weight[r * step + i] * left;
            sum[r][1] += weight[r * step + i] * right;
        }
    }
    for (int r = 0; r < rows; r++)
        for (int half = 0; half < 2; half++)
            *(Floats *)(out + r * out_step + half * LANES) = sum[r][half];
}

static void add_product(long rows, long count, const float *weight, const float *in, long step,
                        const long *offset, float *out, long out_step)
{
    for (; rows >= UNROLL; rows -= UNROLL, weight += UNROLL * step, out += UNROLL * out_step)
        add_rows(UNROLL, count, weight, step, in, offset, out, out_step);
    for (; rows > 0; rows--, weight += step, out += out_step)
        add_rows(1, count, weight, step, in, offset, out, out_step);
}

static void fill(float *out, long rows, long step, const float *values)
{
    for (long r = 0; r < rows; r++)
        for (int t = 0; t < TILE; t++) out[r * step + t] = values[r];
}

/* One row of an image into rows of TILE numbers that are `step` apart, rectified. */
static void rectify_into_tiles(const float *row, long count, long position, float *out, long step)
{
    while (count > 0) {
        long start = position % TILE, part = count < TILE - start ? count : TILE - start;
        float *to = out + position / TILE * step + start;
        for (long i = 0; i < part; i++) to[i] = row[i] < 0 ? 0 : row[i];
        row += part, position += part, count -= part;
    }
}

/* 3 x 3 convolutions with padding, bias and ReLU: from [row][height * columns] to memory->hidden.
 *
 * A padded image is a row of numbers, and a tap of the kernel is a place in it. With a stride the
 * image is split first, into one for each remainder of a position. */
static void convolve(const Module *m, const float *in, const Memory *memory)
{
    long stride = m->stride, width = m->width, step = m->wide + 2, plane = (m->high + 2) * step;
    long size = stride * stride * plane + TILE, length = m->high * step, flat = length + TILE;
    for (long i = 0; i < width; i++)
        for (long y = 0; y < 3; y++)
            for (long x = 0; x < 3; x++)
                memory->taps[(i * 3 + y) * 3 + x] = i * size + y / stride * step + x / stride +
                                                    (y % stride * stride + x % stride) * plane;
    memset(memory->padded, 0, width * size * sizeof(float));
    for (long b = 0; b < m->branches; b++) {
        for (long i = 0; i < width; i++)
            for (long y = 1; y <= m->height; y++, in += m->columns) {
                float *to = memory->padded + i * size;
                to += y / stride * step + y % stride * stride * plane;
                for (long x = 1; x <= m->columns; x++)
                    to[x % stride * plane + x / stride] = in[x - 1];
            }
        const float *weight = m->spatial + b * width * width * 9;
        for (long f = 0; f < length; f += TILE) {
            fill(memory->flat + f, width, flat, m->spatial_bias + b * width);
            add_product(width, width * 9, weight, memory->padded + f, width * 9, memory->taps,
                        memory->flat + f, flat);
        }
        for (long o = 0; o < width; o++)
            for (long y = 0; y < m->high; y++)
                rectify_into_tiles(memory->flat + o * flat + y * step, m->wide, y * m->wide,
                                   memory->hidden + (b * width + o) * TILE,
                                   m->branches * width * TILE);
    }
}

/* BLOCK channels of all branches' outputs in a tile: the expansion plus the scaled stream. */
static void expand(const Module *m, const long *stream_of, const float *hidden, long p,
                   long channel, const Memory *memory)
{
    for (long k = 0; k < m->branches; k++) {
        float *out = memory->expanded + k * BLOCK * TILE;
        const float *own = stream(memory, m->channels, stream_of ? stream_of[k] : 0, channel, p);
        const float *bias = m->expand_bias + k * m->channels + channel;
        for (long r = 0; r < BLOCK; r++)
            for (long t = r * TILE; t < (r + 1) * TILE; t += LANES)
                *(Floats *)(out + t) = m->identity * *(const Floats *)(own + t) + bias[r];
        const float *weight = m->expand_blocks + (channel * m->branches + k * BLOCK) * m->width;
        add_product(BLOCK, m->width, weight, hidden + k * m->width * TILE, m->width, memory->rows,
                    out, TILE);
    }
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
    long positions = m->high * m->wide, channels = m->channels;
    long narrow = next->branches * next->width;
    float sum[BLOCK * TILE] __attribute__((aligned(64)));
    for (long p = 0; p < positions; p += TILE) {
        const float *hidden = memory->hidden + p * m->branches * m->width;
        long kept = 0, at = 0, places[TILE];
        for (long t = p; m->project && t < p + TILE && t < positions; t++)
            if (t / m->wide % next->stride == 0 && t % m->wide % next->stride == 0) {
                if (!kept)
                    at = t / m->wide / next->stride * next->wide + t % m->wide / next->stride;
                places[kept++] = t - p;
            }
        fill(memory->reduced, narrow, TILE, m->reduce_bias);
        for (long c = 0; c < channels; c += BLOCK) {
            expand(m, stream_of, hidden, p, c, memory);
            const long *sources = m->sources;
            const float *factors = m->factors;
            for (long u = 0; u < m->sums; u++) {
                long count = *sources++;
                add_up(count, sources, factors, memory->expanded, sum);
                sources += count, factors += count;
                if (!m->project)
                    memcpy(stream(memory, channels, u, c, p), sum, sizeof(sum));
                for (long r = 0; kept && r < BLOCK; r++)
                    for (long i = 0; i < kept; i++)
                        memory->kept[(u * channels + c + r) * next->high * next->wide + at + i] =
                            sum[r * TILE + places[i]];
                for (long target = 0; target < next->branches; target++)
                    if (m->sum_of[target] == u)
                        add_product(next->width, BLOCK,
                                    m->reduce_blocks + c * narrow + target * next->width * BLOCK,
                                    sum, BLOCK, memory->rows,
                                    memory->reduced + target * next->width * TILE, TILE);
            }
        }
        for (long r = 0; r < narrow; r++)
            for (long t = 0; t < TILE && p + t < positions; t++) {
                float x = memory->reduced[r * TILE + t];
                memory->narrow[r * positions + p + t] = x < 0 ? 0 : x;
            }
    }
}

/* The streams of the next module, whose number of channels or of positions is another one. */
static void project(const Module *m, const Memory *memory)
{
    const Module *next = m + 1;
    long positions = next->high * next->wide;
    for (long p = 0; p < positions; p += TILE) {
        size_t bytes = left(positions, p) * sizeof(float);
        for (long u = 0; u < m->sums; u++) {
            for (long c = 0; c < m->channels; c++)
                memcpy(memory->tile + c * TILE,
                       memory->kept + (u * m->channels + c) * positions + p, bytes);
            for (long c = 0; c < next->channels; c += BLOCK) {
                float *out = stream(memory, next->channels, u, c, p);
                fill(out, BLOCK, TILE, m->project_bias + c);
                add_product(BLOCK, m->channels, m->project + c * m->channels, memory->tile,
                            m->channels, memory->rows, out, TILE);
            }
        }
    }
}

/* The next part of a piece of memory, which is NULL while it is only measured. */
static float *take(float *piece, long *at, long count)
{
    float *part = piece ? piece + *at : NULL;
    *at += (count + 15) / 16 * 16;
    return part;
}

/* Writes what a block of channels reads of the weights in one row of numbers. */
static void order_weights(const Module *m)
{
    long expanded = m->width * BLOCK, narrow = m[1].branches * m[1].width;
    float *expand_to = m->expand_blocks, *reduce_to = m->reduce_blocks;
    for (long c = 0; c < m->channels; c += BLOCK) {
        for (long k = 0; k < m->branches; k++, expand_to += expanded)
            memcpy(expand_to, m->expand + (k * m->channels + c) * m->width,
                   expanded * sizeof(float));
        for (long r = 0; r < narrow; r++, reduce_to += BLOCK)
            memcpy(reduce_to, m->reduce + r * m->channels + c, BLOCK * sizeof(float));
    }
}

/* Divides a piece of memory among all parts. Returns how many floats they take. */
static long divide(Memory *memory, Module *modules, long count, float *piece)
{
    long padded = 0, flat = 0, narrow = 0, hidden = 0, streams = 0, kept = 0, tile = 0;
    long branches = 0, rows = 0, at = 0;
    memory->stream_count = 1;
    for (Module *m = modules; m < modules + count; m++) {
        long high = m->high, wide = m->wide, inner = m->branches * m->width;
        if (m < modules + count - 1) {
            m->expand_blocks = take(piece, &at, inner * m->channels);
            m->reduce_blocks = take(piece, &at, m[1].branches * m[1].width * m->channels);
        }
        long image = m->stride * m->stride * (high + 2) * (wide + 2);
        padded = larger(padded, m->width * (image + TILE));
        flat = larger(flat, m->width * (high * (wide + 2) + TILE));
        narrow = larger(narrow, inner * m->height * m->columns);
        hidden = larger(hidden, inner * tiles(high * wide) * TILE);
        streams = larger(streams, m->channels * tiles(high * wide) * TILE);
        kept = larger(kept, m->sums * m->channels * high * wide);
        tile = larger(tile, larger(m->channels, inner) * TILE);
        branches = larger(branches, m->branches);
        memory->stream_count = larger(memory->stream_count, m->sums);
        rows = larger(rows, larger(m->channels, 9 * m->width));
    }
    memory->padded = take(piece, &at, padded + TILE);
    memory->flat = take(piece, &at, flat);
    memory->narrow = take(piece, &at, narrow);
    memory->hidden = take(piece, &at, hidden);
    memory->streams = take(piece, &at, streams * memory->stream_count);
    memory->kept = take(piece, &at, kept);
    memory->tile = take(piece, &at, tile);
    memory->expanded = take(piece, &at, branches * BLOCK * TILE);
    memory->reduced = take(piece, &at, tile);
    memory->taps = (long *)take(piece, &at, 2 * rows);
    memory->rows = (long *)take(piece, &at, 2 * rows);
    memory->row_count = rows;
    return at;
}

/* A module: its sums, factors and weights are the next ones of each list. */
static void read_module(Module *m, int last, const long *sizes, const long **sums,
                        const float **factors, const float *const **weights)
{
    memset(m, 0, sizeof(*m));
    m->branches = sizes[0], m->width = sizes[1], m->channels = sizes[2], m->stride = sizes[3];
    m->spatial = *(*weights)++, m->spatial_bias = *(*weights)++;
    if (last) return;
    m->identity = *(*factors)++, m->factors = *factors;
    m->sums = *(*sums)++, m->sources = *sums;
    for (long u = 0; u < m->sums; u++) *factors += **sums, *sums += 1 + **sums;
    long targets = *(*sums)++;
    m->sum_of = *sums, *sums += targets;
    m->expand = *(*weights)++, m->expand_bias = *(*weights)++;
    m->reduce = *(*weights)++, m->reduce_bias = *(*weights)++;
    m->project = *(*weights)++, m->project_bias = *(*weights)++;
}

static void run_image(const Module *first, const Module *last, const float *narrow,
                      const float *shared, float *hidden, float *streams, const Memory *memory)
{
    long positions = first->high * first->wide;
    for (long p = 0; p < positions; p += TILE)
        for (long c = 0; c < first->channels; c++)
            memcpy(stream(memory, first->channels, 0, c, p), shared + c * positions + p,
                   left(positions, p) * sizeof(float));
    const long *stream_of = NULL; /* all branches of the first module read the same one */
    for (const Module *m = first; m < last; m++) {
        convolve(m, m == first ? narrow : memory->narrow, memory);
        connect(m, stream_of, memory);
        if (m->project) project(m, memory);
        stream_of = m->sum_of;
    }
    convolve(last, memory->narrow, memory);
    positions = last->high * last->wide;
    long rows = last->branches * last->width;
    for (long p = 0; p < positions; p += TILE) {
        size_t bytes = left(positions, p) * sizeof(float);
        for (long r = 0; r < rows; r++)
            memcpy(hidden + r * positions + p, memory->hidden + p * rows + r * TILE, bytes);
        for (long c = 0; c < last->channels; c++) {
            float sum[TILE] = {0};
            for (long k = 0; k < last->branches; k++) {
                const float *own = stream(memory, last->channels, stream_of[k], c, p);
                for (int t = 0; t < TILE; t++) sum[t] += own[t];
            }
            memcpy(streams + c * positions + p, sum, bytes);
        }
    }
}

/* Some images through a chain of at least two modules. Returns 1 if there is no memory, else 0.
 *
 * height, columns: of what the first 3 x 3 convolutions read.
 * sizes: branches, width, channels and stride of each module.
 * sums: for each module but the last the number of sums that the next one reads; for each sum the
 *     number of its branches and which; the next module's number of branches, and which sum each
 *     of them reads.
 * factors: for each module but the last the factor of its streams, and those of its sums' branches.
 * weights: for each module spatial, spatial_bias; and, but for the last one, the other six.
 * narrow: [image][branches * width][height * columns], what the first 3 x 3 convolutions read.
 * shared: [image][channels][positions], the stream that the first module's branches share.
 * hidden, streams: of the last module, what its branches expand and the sum of its streams.
 */
int branch_chain(long images, long count, long height, long columns, const long *sizes,
                 const long *sums, const float *factors, const float *const *weights,
                 const float *narrow, const float *shared, float *hidden, float *streams)
{
    Module *modules = malloc(count * sizeof(Module));
    if (!modules) return 1;
    for (Module *m = modules; m < modules + count; m++) {
        read_module(m, m == modules + count - 1, sizes, &sums, &factors, &weights);
        sizes += 4;
        m->height = height, m->columns = columns;
        m->high = height = (height - 1) / m->stride + 1;
        m->wide = columns = (columns - 1) / m->stride + 1;
    }
    Memory memory;
    float *piece = malloc(divide(&memory, modules, count, NULL) * sizeof(float));
    if (piece) {
        divide(&memory, modules, count, piece);
        const Module *first = modules, *last = modules + count - 1;
        for (long i = 0; i < memory.row_count; i++) memory.rows[i] = i * TILE;
        for (const Module *m = first; m < last; m++) order_weights(m);
        long read = first->branches * first->width * first->height * first->columns;
        long begun = first->channels * first->high * first->wide;
        long written = last->high * last->wide;
        for (long n = 0; n < images; n++)
            run_image(first, last, narrow + n * read, shared + n * begun,
                      hidden + n * last->branches * last->width * written,
                      streams + n * last->channels * written, &memory);
    }
    free(piece);
    free(modules);
    return !piece;
}
