// Attention of bf16 on tensor cores, after Dao, "FlashAttention-2" (2023), https://arxiv.org/abs/2307.08691.
//
// A block of four warps has a tile of rows that stay in shared memory, 16 or 32 of them for each warp, and goes along the rows that they see,
// or that see them, a step at a time. Scores, the softmax and all sums are in registers, in float; P and dS are rounded to bf16 where they are
// left factors, which they become without a way through memory. Every sum is made in one place, in one order.
//
// * forward: queries stay; keys and values come by turns, one copied while the other is multiplied.
// * backward_queries: queries and dout stay; dQ += dS·K.
// * backward_keys: keys and values stay; dV += Pᵀ·dout and dK += dSᵀ·Q, for all heads of the group and all ranges of queries.
//
// DIM is the least size of heads that there are kernels for; elements from head_dim on are zeros in shared memory.
#include "../cuda/tensor_cores.cuh"
#include "tiles.cuh"

#define WARPS 4
#define THREADS (WARPS * WARP)
#define LOG2_E 1.4426950408889634f
// Rows that stay in both kernels of the backward, and those of a step.
#define STAYING 64
#define STEP 32

// What attention reads, and what its scores are.
struct Inputs {
    const bf16 *q, *k, *v;
    unsigned heads, kv_heads, head_dim, window;
    Scoring<float> scoring;
};

DEVICE Index query_at(const Inputs &in, Index row, unsigned head) { return (row * in.heads + head) * in.head_dim; }
DEVICE Index key_at(const Inputs &in, Index row, unsigned kv_head) { return (row * in.kv_heads + kv_head) * in.head_dim; }

DEVICE float power_of_two(float x) {
#ifdef __CUDACC__
    float power;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x));
    return power;
#else
    return exp2f(x);
#endif
}

// Rows of DIM elements in shared memory. A pack of space behind each puts those of eight rows at one place, which are read at once, into
// different banks.
template <int DIM> constexpr int PITCH = DIM + 8;

// Begins to copy ROWS rows, of which `count` are there and the others are zeros: row r is at(r) elements after `from`.
template <int DIM, int ROWS, typename At> DEVICE void copy_rows(bf16 *to, const bf16 *from, unsigned count, unsigned head_dim, At at) {
    constexpr unsigned PACKS = DIM / 8;
    for (unsigned i = threadIdx.x; i < ROWS * PACKS; i += THREADS) {
        unsigned row = i / PACKS, column = i % PACKS * 8;
        bool is_there = row < count && column < head_dim;
        copy_async(to + row * PITCH<DIM> + column, is_there ? from + at(row) + column : from, is_there ? 16 : 0);
    }
}

// sums += a·bᵀ for 16·FRAGMENTS rows of a and COLUMNS rows of b.
template <int DIM, int FRAGMENTS, int COLUMNS>
DEVICE void multiply_rows(float (&sums)[FRAGMENTS][COLUMNS / 8][4], const bf16 *a, const bf16 *b) {
    unsigned lane = threadIdx.x % WARP;
    a += lane % 16 * PITCH<DIM> + lane / 16 * 8;
    b += (lane / 16 * 8 + lane % 8) * PITCH<DIM> + lane / 8 % 2 * 8;
    UNROLL
    for (int depth = 0; depth < DIM; depth += 16) {
        unsigned left[FRAGMENTS][4], top[4];
        UNROLL
        for (int f = 0; f < FRAGMENTS; f++)
            load_matrices<false>(left[f], a + 16 * f * PITCH<DIM> + depth);
        UNROLL
        for (int c = 0; c < COLUMNS; c += 16) {
            load_matrices<false>(top, b + c * PITCH<DIM> + depth);
            UNROLL
            for (int f = 0; f < FRAGMENTS; f++) {
                mma(sums[f][c / 8], left[f], top[0], top[1]);
                mma(sums[f][c / 8 + 1], left[f], top[2], top[3]);
            }
        }
    }
}

// sums += weights·b for ROWS rows of b.
template <int DIM, int FRAGMENTS, int ROWS>
DEVICE void multiply_weights(float (&sums)[FRAGMENTS][DIM / 8][4], const unsigned (&weights)[FRAGMENTS][ROWS / 16][4], const bf16 *b) {
    unsigned lane = threadIdx.x % WARP;
    b += lane % 16 * PITCH<DIM> + lane / 16 * 8;
    UNROLL
    for (int r = 0; r < ROWS / 16; r++)
        UNROLL
        for (int c = 0; c < DIM; c += 16) {
            unsigned top[4];
            load_matrices<true>(top, b + 16 * r * PITCH<DIM> + c);
            UNROLL
            for (int f = 0; f < FRAGMENTS; f++) {
                mma(sums[f][c / 8], weights[f][r], top[0], top[1]);
                mma(sums[f][c / 8 + 1], weights[f][r], top[2], top[3]);
            }
        }
}

// Sums of a product as a left factor of the next: mma has them in the same lanes.
template <int FRAGMENTS, int COLUMNS>
DEVICE void narrow_sums(unsigned (&weights)[FRAGMENTS][COLUMNS / 16][4], const float (&sums)[FRAGMENTS][COLUMNS / 8][4]) {
    UNROLL
    for (int f = 0; f < FRAGMENTS; f++)
        UNROLL
        for (int c = 0; c < COLUMNS / 16; c++)
            UNROLL
            for (int i = 0; i < 4; i++)
                weights[f][c][i] = narrow_pair(sums[f][2 * c + i / 2][i % 2 * 2], sums[f][2 * c + i / 2][i % 2 * 2 + 1]);
}

// Writes factor·sums, of which `count` rows are there, in packs by way of `rows`, rows of shared memory that nobody else reads any more: row r
// goes `stride`·r elements after `to`.
template <int DIM, int FRAGMENTS>
DEVICE void store_rows(bf16 *to, Index stride, unsigned count, unsigned head_dim, const float (&sums)[FRAGMENTS][DIM / 8][4],
                       const float (&factors)[FRAGMENTS][2], bf16 *rows) {
    constexpr unsigned PACKS = DIM / 8;
    unsigned lane = threadIdx.x % WARP;
    UNROLL
    for (int f = 0; f < FRAGMENTS; f++)
        UNROLL
        for (int c = 0; c < DIM / 8; c++)
            UNROLL
            for (int half = 0; half < 2; half++) {
                bf16 *pair = rows + (16 * f + 8 * half + lane / 4) * PITCH<DIM> + 8 * c + lane % 4 * 2;
                *reinterpret_cast<unsigned *>(pair) =
                    narrow_pair(factors[f][half] * sums[f][c][2 * half], factors[f][half] * sums[f][c][2 * half + 1]);
            }
    __syncwarp();
    for (unsigned i = lane; i < 16 * FRAGMENTS * PACKS; i += WARP) {
        unsigned row = i / PACKS, column = i % PACKS * 8;
        if (row < count && column < head_dim)
            store_pack(to + row * stride + column, load_pack(rows + row * PITCH<DIM> + column));
    }
}

// The part of a tile from its row `from` on, of at most `most` rows.
DEVICE QueryTile part_of(QueryTile tile, unsigned from, unsigned most) {
    unsigned rest = tile.count > from ? tile.count - from : 0;
    tile.first += from;
    tile.count = rest < most ? rest : most;
    return tile;
}

// What a number of the two that a lane has of every 8 columns belongs to: the row of sums[c][e] among 16, and its column.
DEVICE unsigned row_of(unsigned e) { return threadIdx.x % WARP / 4 + e / 2 * 8; }
DEVICE unsigned column_of(unsigned c, unsigned e) { return 8 * c + threadIdx.x % 4 * 2 + e % 2; }

// Rows of a tile of queries.
#define TILE 128

template <int DIM, int QUERIES, int KEYS> DEVICE void forward(const Inputs &in, bf16 *out, float *lse, const QueryTile *tiles) {
    constexpr int FRAGMENTS = QUERIES / (16 * WARPS), OF_WARP = 16 * FRAGMENTS, PARTS = TILE / QUERIES;
    DYNAMIC_SHARED(bf16, memory);
    bf16 *of_k = memory + QUERIES * PITCH<DIM>, *of_v = of_k + KEYS * PITCH<DIM>;
    unsigned head = blockIdx.x % in.heads, kv_head = head / (in.heads / in.kv_heads), number = blockIdx.x / in.heads;
    const QueryTile tile = part_of(tiles[number / PARTS], number % PARTS * QUERIES, QUERIES);
    if (tile.count == 0)
        return;
    unsigned first = number_of_first(tile), keys = first + tile.count;

    copy_rows<DIM, QUERIES>(memory, in.q, tile.count, in.head_dim, [&](unsigned row) { return query_at(in, tile.first + row, head); });
    auto load = [&](bf16 *to, const bf16 *from, unsigned at) {
        copy_rows<DIM, KEYS>(to, from, keys - at, in.head_dim, [&](unsigned row) { return key_at(in, row_of_key(tile, at + row), kv_head); });
        commit_copies();
    };
    unsigned at = first_seen(first, in.window);
    load(of_k, in.k, at);

    // Of this warp's rows.
    unsigned skipped = threadIdx.x / WARP * OF_WARP;
    unsigned count = tile.count > skipped ? tile.count - skipped : 0, query = first + skipped, last_query = query + OF_WARP - 1;
    unsigned first_key = first_seen(query, in.window), first_key_of_last = first_seen(last_query, in.window);
    bf16 *of_q = memory + skipped * PITCH<DIM>;
    // Scores become natural logarithms by one factor, and of base 2 by the other.
    float natural = in.scoring.cap > 0 ? 1 : in.scoring.scale, binary = natural * LOG2_E;
    float sums[FRAGMENTS][DIM / 8][4] = {}, total[FRAGMENTS][2] = {}, highest[FRAGMENTS][2];
    for (int f = 0; f < FRAGMENTS; f++)
        highest[f][0] = highest[f][1] = -INFINITY;

    for (; at < keys; at += KEYS) {
        // The keys are there, and nobody reads the last values any more.
        WAIT_FOR_COPIES(0);
        __syncthreads();
        load(of_v, in.v, at);
        bool is_seen = count > 0 && at <= last_query && at + KEYS > first_key;
        unsigned weights[FRAGMENTS][KEYS / 16][4] = {};
        if (is_seen) {
            float scores[FRAGMENTS][KEYS / 8][4] = {};
            multiply_rows<DIM, FRAGMENTS, KEYS>(scores, of_q, of_k);
            if (in.scoring.cap > 0)
                UNROLL
                for (int f = 0; f < FRAGMENTS; f++)
                    UNROLL
                    for (int c = 0; c < KEYS / 8; c++)
                        UNROLL
                        for (int e = 0; e < 4; e++)
                            scores[f][c][e] = score_of(in.scoring, scores[f][c][e]);
            if (at + KEYS - 1 > query || at < first_key_of_last)
                UNROLL
                for (int f = 0; f < FRAGMENTS; f++)
                    UNROLL
                    for (int c = 0; c < KEYS / 8; c++)
                        UNROLL
                        for (int e = 0; e < 4; e++)
                            if (!sees(query + 16 * f + row_of(e), at + column_of(c, e), in.window))
                                scores[f][c][e] = -INFINITY;
            UNROLL
            for (int f = 0; f < FRAGMENTS; f++)
                UNROLL
                for (int half = 0; half < 2; half++) {
                    float top = highest[f][half];
                    UNROLL
                    for (int c = 0; c < KEYS / 8; c++)
                        top = fmaxf(top, fmaxf(scores[f][c][2 * half], scores[f][c][2 * half + 1]));
                    top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
                    top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
                    // A row may see nothing yet.
                    float shift = top == -INFINITY ? 0 : top * binary, factor = power_of_two(highest[f][half] * binary - shift);
                    highest[f][half] = top;
                    float sum = 0;
                    UNROLL
                    for (int c = 0; c < KEYS / 8; c++)
                        UNROLL
                        for (int e = 2 * half; e < 2 * half + 2; e++) {
                            scores[f][c][e] = power_of_two(scores[f][c][e] * binary - shift);
                            sum += scores[f][c][e];
                        }
                    total[f][half] = total[f][half] * factor + sum;
                    UNROLL
                    for (int c = 0; c < DIM / 8; c++)
                        UNROLL
                        for (int e = 2 * half; e < 2 * half + 2; e++)
                            sums[f][c][e] *= factor;
                }
            narrow_sums<FRAGMENTS, KEYS>(weights, scores);
        }
        // The values are there, and nobody reads the keys any more.
        WAIT_FOR_COPIES(0);
        __syncthreads();
        if (at + KEYS < keys)
            load(of_k, in.k, at + KEYS);
        if (is_seen)
            multiply_weights<DIM, FRAGMENTS, KEYS>(sums, weights, of_v);
    }

    if (count == 0)
        return;
    float inverses[FRAGMENTS][2];
    UNROLL
    for (int f = 0; f < FRAGMENTS; f++)
        UNROLL
        for (int half = 0; half < 2; half++) {
            float sum = total[f][half];
            sum += __shfl_xor_sync(0xffffffffu, sum, 1);
            sum += __shfl_xor_sync(0xffffffffu, sum, 2);
            inverses[f][half] = 1 / sum;
            unsigned row = 16 * f + row_of(2 * half);
            if (threadIdx.x % 4 == 0 && row < count)
                lse[(Index(tile.first) + skipped + row) * in.heads + head] = highest[f][half] * natural + logf(sum);
        }
    bf16 *to = out + query_at(in, tile.first + skipped, head);
    store_rows<DIM, FRAGMENTS>(to, Index(in.heads) * in.head_dim, count, in.head_dim, sums, inverses, of_q);
}

#define INPUTS \
    const bf16 *q, const bf16 *k, const bf16 *v, Index heads, Index kv_heads, Index head_dim, Index window, double scale, double cap, double inverse_cap
#define THE_INPUTS \
    Inputs { q, k, v, unsigned(heads), unsigned(kv_heads), unsigned(head_dim), unsigned(window), {float(scale), float(cap), float(inverse_cap)} }
#define FOR_DIM(DIM, QUERIES, KEYS)                                                                                     \
    KERNEL_BLOCKS(THREADS, 2, flash_forward_##DIM, (INPUTS, bf16 *out, float *lse, const QueryTile *tiles)) {          \
        forward<DIM, QUERIES, KEYS>(THE_INPUTS, out, lse, tiles);                                                      \
    }
FOR_DIM(64, 128, 64)
FOR_DIM(96, 128, 64)
FOR_DIM(128, 128, 64)
FOR_DIM(256, 64, 32)
