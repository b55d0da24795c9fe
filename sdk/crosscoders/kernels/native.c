// The sparse operations for CPUs, compiled where they run: see native.py, and reference.py for what they compute.
//
// Rows may have any stride; columns must be contiguous. Each sum is computed by one thread in a fixed order, so results
// do not depend on the number of threads.

#include <math.h>
#include <omp.h>
#include <stdint.h>
#include <string.h>

typedef int64_t i64;

enum { LOOK = 32 };  // scores compared at a time, one bit of a word for each
enum { LANES = 16 };  // floats in a vector register of AVX-512; narrower processors use several registers
enum { BLOCK = 4 * LANES };  // columns whose running sums stay in registers
enum { GROUP = 32 };  // entries whose dot products are accumulated at a time

static inline i64 least(i64 a, i64 b) { return a < b ? a : b; }

static inline float of_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline uint32_t bits_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline float of_bf16(uint16_t half) { return of_bits((uint32_t)half << 16); }

static inline float of_float(float value) { return value; }

// Writes the survivors of rows `first` to `last`, as many as there is room for; returns how many there are. Survivors
// are rare, so 32 comparisons are collected in one word, and only its set bits (if any) are visited.
#define FIND(NAME, TYPE, AS_FLOAT)                                                                                     \
    static i64 NAME(const TYPE *score, const float *floors, i64 first, i64 last, i64 columns, i64 room, i64 *row,      \
                    i64 *column, TYPE *value) {                                                                        \
        i64 found = 0;                                                                                                 \
        for (i64 r = first; r < last; r++) {                                                                           \
            const TYPE *scores = score + r * columns;                                                                  \
            const float limit = floors[r];                                                                             \
            for (i64 c = 0; c < columns; c += LOOK) {                                                                  \
                uint32_t above = 0;                                                                                    \
                if (c + LOOK <= columns)                                                                               \
                    for (int j = 0; j < LOOK; j++) above |= (uint32_t)(AS_FLOAT(scores[c + j]) > limit) << j;          \
                else                                                                                                   \
                    for (int j = 0; c + j < columns; j++) above |= (uint32_t)(AS_FLOAT(scores[c + j]) > limit) << j;   \
                for (; above; above &= above - 1, found++)                                                             \
                    if (found < room) {                                                                                \
                        const i64 place = c + __builtin_ctz(above);                                                    \
                        row[found] = r, column[found] = place, value[found] = scores[place];                           \
                    }                                                                                                  \
            }                                                                                                          \
        }                                                                                                              \
        return found;                                                                                                  \
    }                                                                                                                  \
                                                                                                                       \
    /* Each thread fills its own share of the buffer; then the shares are moved together, in the order of rows. */     \
    i64 NAME##_survivors(const TYPE *score, const float *floors, i64 rows, i64 columns, i64 room, i64 *row,            \
                         i64 *column, TYPE *value) {                                                                   \
        i64 found[omp_get_max_threads()], share = room, threads = 1, most = 0, total = 0;                              \
        _Pragma("omp parallel") {                                                                                      \
            const i64 me = omp_get_thread_num(), all = omp_get_num_threads();                                          \
            const i64 part = room / all, begin = part * me;                                                            \
            if (!me) share = part, threads = all;                                                                      \
            found[me] = NAME(score, floors, rows * me / all, rows *(me + 1) / all, columns, part, row + begin,         \
                             column + begin, value + begin);                                                           \
        }                                                                                                              \
        for (i64 t = 0; t < threads; t++)                                                                              \
            if (found[t] > most) most = found[t];                                                                      \
        if (most > share) return -most * threads;                                                                      \
        for (i64 t = 0; t < threads; total += found[t++]) {                                                            \
            memmove(row + total, row + share * t, found[t] * sizeof *row);                                             \
            memmove(column + total, column + share * t, found[t] * sizeof *column);                                    \
            memmove(value + total, value + share * t, found[t] * sizeof *value);                                       \
        }                                                                                                              \
        return total;                                                                                                  \
    }

FIND(fp32, float, of_float)
FIND(bf16, uint16_t, of_bf16)

// A stable counting sort: the permutation that sorts entries by key, and the offset at which each key's entries begin.
void grouped(const i64 *key, i64 entries, i64 keys, i64 *order, i64 *starts) {
    i64 total = 0;
    if (!keys) return;
    memset(starts, 0, keys * sizeof *starts);
    for (i64 n = 0; n < entries; n++) starts[key[n]]++;
    for (i64 k = 0; k < keys; k++) {
        const i64 count = starts[k];
        starts[k] = total;
        total += count;
    }
    for (i64 n = 0; n < entries; n++) order[starts[key[n]]++] = n;
    // Each start has advanced to where the next key begins, so shift them back by one.
    for (i64 k = keys - 1; k > 0; k--) starts[k] = starts[k - 1];
    starts[0] = 0;
}

// Rows rounded to bf16 (to nearest, ties to even), the norms of the rows, and the norms of the rounding errors.
void rounded(const float *table, i64 stride, i64 rows, i64 width, i64 padded, uint16_t *rough, float *norm,
             float *error) {
#pragma omp parallel for
    for (i64 r = 0; r < rows; r++) {
        const float *from = table + r * stride;
        uint16_t *to = rough + r * padded;
        float squares = 0, lost = 0;
#pragma omp simd reduction(+ : squares, lost)
        for (i64 j = 0; j < width; j++) {
            const uint32_t bits = bits_of(from[j]), half = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
            const float difference = of_bits(half << 16) - from[j];
            to[j] = (uint16_t)half;
            squares += from[j] * from[j];
            lost += difference * difference;
        }
        memset(to + width, 0, (padded - width) * sizeof *to);
        norm[r] = sqrtf(squares);
        error[r] = sqrtf(lost);
    }
}

// For one block of `left` columns: adds the weighted rows of some entries to `sum`, and the products of each row with
// `own` to the entry's `products`. Partial products stay in LANES separate sums, so that the loop vectorises; a short
// last block is padded with zeros, so that it runs through the same code.
static inline void add_block(const float *rows, i64 stride, const float *own, const i64 *token, const float *weight,
                             i64 entries, int fresh, i64 left, float *sum, float (*products)[LANES]) {
    float total[BLOCK] = {0}, mine[BLOCK] = {0}, filled[BLOCK] = {0};
    memcpy(mine, own, left * sizeof *mine);
    if (!fresh) memcpy(total, sum, left * sizeof *total);
    for (i64 n = 0; n < entries; n++) {
        const float *row = rows + token[n] * stride, w = weight[n];
        if (left < BLOCK) row = memcpy(filled, row, left * sizeof *row);
        for (int j = 0; j < BLOCK; j++) total[j] += w * row[j];
        for (int j = 0; j < LANES; j++)
            products[n][j] += (row[j] * mine[j] + row[j + LANES] * mine[j + LANES]) +
                              (row[j + 2 * LANES] * mine[j + 2 * LANES] + row[j + 3 * LANES] * mine[j + 3 * LANES]);
    }
    memcpy(sum, total, left * sizeof *total);
}

// For each latent's entries, listed by `order`: the weighted sum of their tokens' rows, and the dot product of each of
// those rows with the latent's own row. Both need the same rows, so these are read from memory only once.
void sums_and_dots(const float *rows, i64 stride, const float *table, i64 table_stride, i64 width, const i64 *token,
                   const float *weight, const i64 *order, const i64 *starts, i64 entries, i64 latents, float *sums,
                   float *dots) {
#pragma omp parallel for schedule(dynamic, 64)
    for (i64 f = 0; f < latents; f++) {
        const i64 end = f + 1 < latents ? starts[f + 1] : entries;
        const float *own = table + f * table_stride;
        float *sum = sums + f * width;
        if (starts[f] == end) memset(sum, 0, width * sizeof *sum);
        for (i64 first = starts[f]; first < end; first += GROUP) {
            const i64 count = least(end - first, GROUP), fresh = first == starts[f];
            i64 tokens[GROUP], c = 0;
            float weights[GROUP], products[GROUP][LANES] = {0};
            for (i64 n = 0; n < count; n++) tokens[n] = token[order[first + n]], weights[n] = weight[order[first + n]];
            for (; c + BLOCK <= width; c += BLOCK)
                add_block(rows + c, stride, own + c, tokens, weights, count, fresh, BLOCK, sum + c, products);
            if (c < width)
                add_block(rows + c, stride, own + c, tokens, weights, count, fresh, width - c, sum + c, products);
            for (i64 n = 0; n < count; n++) {
                float product = 0;
                for (int j = 0; j < LANES; j++) product += products[n][j];
                dots[order[first + n]] = product;
            }
        }
    }
}
