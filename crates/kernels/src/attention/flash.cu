// Attention of bf16 on tensor cores, after Dao, "FlashAttention-2" (2023), https://arxiv.org/abs/2307.08691.
//
// A block of four warps has a tile of rows that stay in shared memory, 16 or 32 of them for a warp, and goes along the rows that they see, or
// that see them, a step at a time. Scores, the softmax and all sums are in registers, in float; P and dS are rounded to bf16 where they are left
// factors, which they become in the registers where they are. Every sum is made in one place, in one order.
//
// What bounds products is less the tensor cores than shared memory, of which a multiprocessor reads 128 bytes a cycle: a row that is read serves
// 32 of the rows that stay, wherever a thread has registers for their sums.
//
// * forward: queries stay; keys and values come by turns, one copied while the other is multiplied.
// * backward_queries: queries and dout stay; dQ += dS·K.
// * backward_keys: keys and values stay; dV += Pᵀ·dout and dK += dSᵀ·Q, each by warps of its own, for all heads of the group and all ranges of
//   queries.
//
// DIM is the least size of heads that there are kernels for; elements from head_dim on are zeros in shared memory.
#include "../cuda/tensor_cores.cuh"
#include "tiles.cuh"

#define WARPS 4
#define THREADS (WARPS * WARP)
#define LOG2_E 1.4426950408889634f
// Rows of a step of the backward.
#define STEP 32

// What attention reads, and what its scores are.
struct Inputs {
    const bf16 *q, *k, *v;
    unsigned heads, kv_heads, head_dim, window;
    Scoring<float> scoring;
};

// Elements from a row of queries to the next, and of keys.
DEVICE unsigned query_stride(const Inputs &in) { return in.heads * in.head_dim; }
DEVICE unsigned key_stride(const Inputs &in) { return in.kv_heads * in.head_dim; }

DEVICE float power_of_two(float x) {
#ifdef __CUDACC__
    float power;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x));
    return power;
#else
    return exp2f(x);
#endif
}

DEVICE float reciprocal(float x) {
#ifdef __CUDACC__
    float inverse;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(x));
    return inverse;
#else
    return 1 / x;
#endif
}

// cap·tanh(score / cap), where tanh x = 1 - 2 / (1 + exp 2x) is off by some 1e-7: more than tanhf, but of 1.
DEVICE float capped_score(const Scoring<float> &scoring, float product) {
    float power = power_of_two(scoring.scale * product * (scoring.inverse_cap * 2 * LOG2_E));
    return scoring.cap - 2 * scoring.cap * reciprocal(1 + power);
}

// Rows of DIM elements in shared memory. A pack of space behind each puts those of eight rows at one place, which are read at once, into
// different banks.
template <int DIM> constexpr int PITCH = DIM + 8;

// Begins to copy the rows of a head, ROWS of which `count` are there and the others are zeros: row r is number(r) of those from `from` on.
template <int DIM, int ROWS, typename Number>
DEVICE void copy_rows(bf16 *to, const bf16 *from, unsigned stride, unsigned count, unsigned head_dim, Number number) {
    constexpr int PACKS = DIM / 8, EACH = ROWS * PACKS / THREADS;
    static_assert(EACH * THREADS == ROWS * PACKS, "all threads have as many packs");
    UNROLL
    for (int e = 0; e < EACH; e++) {
        unsigned i = threadIdx.x + e * THREADS, row = i / PACKS, column = i % PACKS * 8;
        // Said so that a thread's column is the same in each.
        if (THREADS % PACKS == 0)
            row = threadIdx.x / PACKS + e * (THREADS / PACKS), column = threadIdx.x % PACKS * 8;
        bool is_there = (row < count) & (column < head_dim);
        copy_async(to + row * PITCH<DIM> + column, from + Index(number(row)) * stride + column, is_there * 16);
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
DEVICE void store_rows(bf16 *to, unsigned stride, unsigned count, unsigned head_dim, const float (&sums)[FRAGMENTS][DIM / 8][4],
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
            store_pack(to + Index(row) * stride + column, load_pack(rows + row * PITCH<DIM> + column));
    }
}

// The part of a tile from its row `from` on, of at most `most` rows.
DEVICE QueryTile part_of(QueryTile tile, unsigned from, unsigned most) {
    unsigned rest = tile.count > from ? tile.count - from : 0;
    tile.first += from;
    tile.count = rest < most ? rest : most;
    return tile;
}
DEVICE KeyTile part_of(KeyTile tile, unsigned from, unsigned most) {
    unsigned rest = tile.count > from ? tile.count - from : 0;
    tile.first += from;
    tile.number += from;
    tile.count = rest < most ? rest : most;
    return tile;
}

// Scores of rows that do not see each other become those of no weight: `is_seen` says it of the fragment f, the column c and number e of a lane.
template <int FRAGMENTS, int COLUMNS, typename Seen> DEVICE void mask(float (&scores)[FRAGMENTS][COLUMNS / 8][4], Seen is_seen) {
    UNROLL
    for (int f = 0; f < FRAGMENTS; f++)
        UNROLL
        for (int c = 0; c < COLUMNS / 8; c++)
            UNROLL
            for (int e = 0; e < 4; e++)
                scores[f][c][e] = is_seen(f, c, e) ? scores[f][c][e] : -INFINITY;
}

// What a number of the two that a lane has of every 8 columns belongs to: the row of sums[c][e] among 16, and its column.
DEVICE unsigned row_of(unsigned e) { return threadIdx.x % WARP / 4 + e / 2 * 8; }
DEVICE unsigned column_of(unsigned c, unsigned e) { return 8 * c + threadIdx.x % 4 * 2 + e % 2; }

// Rows of a tile of queries, or of keys.
#define TILE 128

// Exponentials of a row are relative to its first largest score until another is larger by this much, in base 2: sums have room for that, and are
// seldom scaled.
#define MOST_GROWTH 8

// out and lse. QUERIES rows stay, and KEYS come in each step.
template <int DIM, int QUERIES, int KEYS> DEVICE void forward(const Inputs &in, bf16 *out, float *lse, const QueryTile *tiles) {
    constexpr int FRAGMENTS = QUERIES / (16 * WARPS), OF_WARP = 16 * FRAGMENTS, PARTS = TILE / QUERIES;
    DYNAMIC_SHARED(bf16, memory);
    bf16 *of_k = memory + QUERIES * PITCH<DIM>, *of_v = of_k + KEYS * PITCH<DIM>;
    unsigned head = blockIdx.x % in.heads, kv_head = head / (in.heads / in.kv_heads), number = blockIdx.x / in.heads;
    const QueryTile tile = part_of(tiles[number / PARTS], number % PARTS * QUERIES, QUERIES);
    if (tile.count == 0)
        return;
    unsigned first = number_of_first(tile), keys = first + tile.count;

    copy_rows<DIM, QUERIES>(memory, in.q + head * in.head_dim, query_stride(in), tile.count, in.head_dim,
                            [&](unsigned row) { return tile.first + row; });
    auto load = [&](bf16 *to, const bf16 *from, unsigned at) {
        copy_rows<DIM, KEYS>(to, from + kv_head * in.head_dim, key_stride(in), keys - at, in.head_dim,
                             [&](unsigned row) { return row_of_key(tile, at + row); });
        commit_copies();
    };
    unsigned at = first_seen(first, in.window);
    load(of_k, in.k, at);

    // Of this warp's rows.
    unsigned skipped = threadIdx.x / WARP * OF_WARP;
    unsigned count = tile.count > skipped ? tile.count - skipped : 0, query = first + skipped;
    bf16 *of_q = memory + skipped * PITCH<DIM>;
    // Scores become natural logarithms by one factor, and of base 2 by the other.
    float natural = in.scoring.cap > 0 ? 1 : in.scoring.scale, binary = natural * LOG2_E;
    float sums[FRAGMENTS][DIM / 8][4] = {}, total[FRAGMENTS][2] = {}, origins[FRAGMENTS][2];
    UNROLL
    for (int f = 0; f < FRAGMENTS; f++)
        origins[f][0] = origins[f][1] = -INFINITY;

    for (; at < keys; at += KEYS) {
        // The keys are there, and nobody reads the last values any more.
        WAIT_FOR_COPIES(0);
        __syncthreads();
        load(of_v, in.v, at);
        bool is_seen = count > 0 && at < query + OF_WARP && at + KEYS > first_seen(query, in.window);
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
                            scores[f][c][e] = capped_score(in.scoring, scores[f][c][e]);
            if (at + KEYS - 1 > query || at < first_seen(query + OF_WARP - 1, in.window))
                mask<FRAGMENTS, KEYS>(
                    scores, [&](int f, int c, int e) { return sees(query + 16 * f + row_of(e), at + column_of(c, e), in.window); });
            float factors[FRAGMENTS][2];
            bool has_grown = false;
            UNROLL
            for (int f = 0; f < FRAGMENTS; f++)
                UNROLL
                for (int half = 0; half < 2; half++) {
                    float before = origins[f][half], top = before;
                    UNROLL
                    for (int c = 0; c < KEYS / 8; c++)
                        top = fmaxf(top, fmaxf(scores[f][c][2 * half], scores[f][c][2 * half + 1]));
                    top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
                    top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
                    float growth = (top - before) * binary;
                    bool grows = growth > MOST_GROWTH;
                    has_grown |= grows;
                    factors[f][half] = grows ? power_of_two(-growth) : 1;
                    origins[f][half] = grows ? top : before;
                    // A row may see nothing yet.
                    float shift = origins[f][half] == -INFINITY ? 0 : origins[f][half] * binary, sum = 0;
                    UNROLL
                    for (int c = 0; c < KEYS / 8; c++)
                        UNROLL
                        for (int e = 2 * half; e < 2 * half + 2; e++) {
                            scores[f][c][e] = power_of_two(scores[f][c][e] * binary - shift);
                            sum += scores[f][c][e];
                        }
                    total[f][half] = total[f][half] * factors[f][half] + sum;
                }
            if (__any_sync(0xffffffffu, has_grown))
                UNROLL
                for (int f = 0; f < FRAGMENTS; f++)
                    UNROLL
                    for (int c = 0; c < DIM / 8; c++)
                        UNROLL
                        for (int e = 0; e < 4; e++)
                            sums[f][c][e] *= factors[f][e / 2];
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
                lse[(Index(tile.first) + skipped + row) * in.heads + head] = origins[f][half] * natural + logf(sum);
        }
    bf16 *to = out + Index(tile.first + skipped) * query_stride(in) + head * in.head_dim;
    store_rows<DIM, FRAGMENTS>(to, query_stride(in), count, in.head_dim, sums, inverses, of_q);
}

// P of rows that stay and the STEP rows of a step, from the products that their scores are made of: as left factors, and times the slopes of a
// cap in the place of the products. `logarithm` is lse in base 2 of the fragment f, the column c and number e of a lane; whether a row of
// queries sees one of keys is asked at a border alone.
template <int FRAGMENTS, typename Logarithm, typename Seen>
DEVICE void probabilities(const Scoring<float> &scoring, float (&scores)[FRAGMENTS][STEP / 8][4], unsigned (&weights)[FRAGMENTS][STEP / 16][4],
                          Logarithm logarithm, bool is_border, Seen is_seen) {
    if (scoring.cap > 0) {
        UNROLL
        for (int f = 0; f < FRAGMENTS; f++)
            UNROLL
            for (int c = 0; c < STEP / 8; c++)
                UNROLL
                for (int half = 0; half < 2; half++) {
                    float p[2];
                    UNROLL
                    for (int i = 0; i < 2; i++) {
                        int e = 2 * half + i;
                        float score = capped_score(scoring, scores[f][c][e]), exponential = power_of_two(score * LOG2_E - logarithm(f, c, e));
                        p[i] = is_border && !is_seen(f, c, e) ? 0 : exponential;
                        scores[f][c][e] = p[i] * slope_of(scoring, score);
                    }
                    weights[f][c / 2][c % 2 * 2 + half] = narrow_pair(p[0], p[1]);
                }
        return;
    }
    if (is_border)
        mask<FRAGMENTS, STEP>(scores, is_seen);
    UNROLL
    for (int f = 0; f < FRAGMENTS; f++)
        UNROLL
        for (int c = 0; c < STEP / 8; c++)
            UNROLL
            for (int e = 0; e < 4; e++)
                scores[f][c][e] = power_of_two(scores[f][c][e] * (scoring.scale * LOG2_E) - logarithm(f, c, e));
    narrow_sums<FRAGMENTS, STEP>(weights, scores);
}

// dS = P·(dP - delta) as a left factor, P times the slopes of a cap.
template <int FRAGMENTS, typename Delta>
DEVICE void gradients_of_scores(unsigned (&weights)[FRAGMENTS][STEP / 16][4], const float (&p)[FRAGMENTS][STEP / 8][4],
                                float (&dp)[FRAGMENTS][STEP / 8][4], Delta delta) {
    UNROLL
    for (int f = 0; f < FRAGMENTS; f++)
        UNROLL
        for (int c = 0; c < STEP / 8; c++)
            UNROLL
            for (int e = 0; e < 4; e++)
                dp[f][c][e] = p[f][c][e] * (dp[f][c][e] - delta(f, c, e));
    narrow_sums<FRAGMENTS, STEP>(weights, dp);
}

// What backward_keys wants to know of a row of queries and a head: lse in base 2, and delta, the sum of dout·out.
struct alignas(8) Numbers {
    float logarithm, delta;
};

// Those of a row of dout in shared memory, in the space behind it.
template <int DIM> DEVICE Numbers &numbers_of(bf16 *of_dout, unsigned row) { return *reinterpret_cast<Numbers *>(of_dout + row * PITCH<DIM> + DIM); }

// dQ, and the numbers of every row and head. FRAGMENTS times 16 rows stay for each warp. Values come while scores are made, and keys a step
// before, where shared memory holds those of two steps (STEPS).
template <int DIM, int FRAGMENTS, int STEPS>
DEVICE void backward_queries(const Inputs &in, const bf16 *out, const float *lse, const bf16 *dout, bf16 *dq, Numbers *numbers,
                             const QueryTile *tiles) {
    constexpr int OF_WARP = 16 * FRAGMENTS, STAYING = WARPS * OF_WARP, PARTS = TILE / STAYING;
    DYNAMIC_SHARED(bf16, memory);
    bf16 *of_dout = memory + STAYING * PITCH<DIM>, *of_v = of_dout + STAYING * PITCH<DIM>, *steps = of_v + STEP * PITCH<DIM>;
    unsigned head = blockIdx.x % in.heads, kv_head = head / (in.heads / in.kv_heads), number = blockIdx.x / in.heads;
    const QueryTile tile = part_of(tiles[number / PARTS], number % PARTS * STAYING, STAYING);
    if (tile.count == 0)
        return;
    unsigned first = number_of_first(tile), keys = first + tile.count;

    auto query_row = [&](unsigned row) { return tile.first + row; };
    unsigned of_head = head * in.head_dim;
    copy_rows<DIM, STAYING>(memory, in.q + of_head, query_stride(in), tile.count, in.head_dim, query_row);
    copy_rows<DIM, STAYING>(of_dout, dout + of_head, query_stride(in), tile.count, in.head_dim, query_row);
    auto load = [&](bf16 *to, const bf16 *from, unsigned at) {
        copy_rows<DIM, STEP>(to, from + kv_head * in.head_dim, key_stride(in), keys - at, in.head_dim,
                             [&](unsigned row) { return row_of_key(tile, at + row); });
        commit_copies();
    };
    unsigned at = first_seen(first, in.window);
    load(steps, in.k, at);

    // Of this warp's rows.
    unsigned lane = threadIdx.x % WARP, skipped = threadIdx.x / WARP * OF_WARP;
    unsigned count = tile.count > skipped ? tile.count - skipped : 0, query = first + skipped;
    bf16 *of_q = memory + skipped * PITCH<DIM>;
    of_dout += skipped * PITCH<DIM>;
    if (count > 0)
        UNROLL
        for (int f = 0; f < FRAGMENTS; f++) {
            // Two lanes a row.
            unsigned row = 16 * f + lane % 16 < count ? 16 * f + lane % 16 : count - 1;
            Index of_row = Index(query_row(skipped + row)) * query_stride(in) + of_head;
            float sum = 0;
            // All are asked for before the first is needed; those beyond the head count nothing.
            Pack<bf16> of_a[DIM / 16], of_b[DIM / 16];
            UNROLL
            for (int c = 0; c < DIM / 16; c++) {
                unsigned column = 16 * c + lane / 16 * 8;
                of_a[c] = load_pack(dout + of_row + (column < in.head_dim ? column : 0));
                of_b[c] = load_pack(out + of_row + (column < in.head_dim ? column : 0));
                if (column >= in.head_dim)
                    of_a[c] = Pack<bf16>{};
            }
            UNROLL
            for (int c = 0; c < DIM / 16; c++)
                UNROLL
                for (int i = 0; i < 8; i++)
                    sum += widen(of_a[c].of[i]) * widen(of_b[c].of[i]);
            sum += __shfl_xor_sync(0xffffffffu, sum, 16);
            Index place = (tile.first + skipped + row) * Index(in.heads) + head;
            if (lane < 16) {
                Numbers both{lse[place] * LOG2_E, sum};
                numbers_of<DIM>(of_dout, 16 * f + lane) = both;
                if (16 * f + lane < count)
                    numbers[place] = both;
            }
        }

    float sums[FRAGMENTS][DIM / 8][4] = {};
    for (int turn = 0; at < keys; at += STEP) {
        // The keys are there, and nobody reads those of the last step, or its values, any more.
        WAIT_FOR_COPIES(0);
        __syncthreads();
        load(of_v, in.v, at);
        const bf16 *of_k = steps + turn * STEP * PITCH<DIM>;
        if (STEPS == 2) {
            turn = 1 - turn;
            if (at + STEP < keys)
                load(steps + turn * STEP * PITCH<DIM>, in.k, at + STEP);
            else
                commit_copies();
        }
        bool is_seen = count > 0 && at < query + OF_WARP && at + STEP > first_seen(query, in.window);
        float scores[FRAGMENTS][STEP / 8][4] = {}, dp[FRAGMENTS][STEP / 8][4] = {};
        unsigned weights[FRAGMENTS][STEP / 16][4];
        if (is_seen) {
            multiply_rows<DIM, FRAGMENTS, STEP>(scores, of_q, of_k);
            probabilities(
                in.scoring, scores, weights, [&](int f, int, int e) { return numbers_of<DIM>(of_dout, 16 * f + row_of(e)).logarithm; },
                at + STEP - 1 > query || at < first_seen(query + OF_WARP - 1, in.window),
                [&](int f, int c, int e) { return sees(query + 16 * f + row_of(e), at + column_of(c, e), in.window); });
        }
        // The values are there; the next keys may not be.
        WAIT_FOR_COPIES(STEPS - 1);
        __syncthreads();
        if (is_seen) {
            multiply_rows<DIM, FRAGMENTS, STEP>(dp, of_dout, of_v);
            gradients_of_scores(weights, scores, dp, [&](int f, int, int e) { return numbers_of<DIM>(of_dout, 16 * f + row_of(e)).delta; });
            multiply_weights<DIM, FRAGMENTS, STEP>(sums, weights, of_k);
        }
        if (STEPS == 1 && at + STEP < keys) {
            __syncthreads();
            load(steps, in.k, at + STEP);
        }
    }
    if (count == 0)
        return;
    float factors[FRAGMENTS][2];
    UNROLL
    for (int f = 0; f < FRAGMENTS; f++)
        factors[f][0] = factors[f][1] = in.scoring.scale;
    bf16 *to = dq + Index(query_row(skipped)) * query_stride(in) + of_head;
    store_rows<DIM, FRAGMENTS>(to, query_stride(in), count, in.head_dim, sums, factors, of_q);
}

// A step along the queries that see a tile of keys: those from `row` to `end`, of which the first has this number.
struct QueryStep {
    unsigned head, range, row, end, number;
};

// dK and dV. FRAGMENTS times 16 rows stay for each pair of warps: one makes P and dV, the other dP, of that P which the first leaves in shared
// memory dS, and dK. So each has registers for the sums of twice the rows, and what it reads of a step serves them all. Shared memory holds
// STEPS steps.
template <int DIM, int FRAGMENTS, int STEPS>
DEVICE void backward_keys(const Inputs &in, const bf16 *dout, const Numbers *numbers, bf16 *dk, bf16 *dv, const KeyTile *tiles,
                          const QueryRange *ranges) {
    constexpr int OF_PAIR = 16 * FRAGMENTS, STAYING = WARPS / 2 * OF_PAIR, PARTS = TILE / STAYING, STAGE = 2 * STEP * PITCH<DIM>;
    DYNAMIC_SHARED(bf16, memory);
    bf16 *of_v = memory + STAYING * PITCH<DIM>, *stages = of_v + STAYING * PITCH<DIM>;
    float *left = reinterpret_cast<float *>(stages + STEPS * STAGE);
    unsigned kv_head = blockIdx.x % in.kv_heads, group = in.heads / in.kv_heads, number = blockIdx.x / in.kv_heads;
    const KeyTile tile = part_of(tiles[number / PARTS], number % PARTS * STAYING, STAYING);
    if (tile.count == 0)
        return;

    auto key_row = [&](unsigned row) { return tile.first + row; };
    unsigned of_kv_head = kv_head * in.head_dim;
    copy_rows<DIM, STAYING>(memory, in.k + of_kv_head, key_stride(in), tile.count, in.head_dim, key_row);
    copy_rows<DIM, STAYING>(of_v, in.v + of_kv_head, key_stride(in), tile.count, in.head_dim, key_row);
    auto next = [&](QueryStep step) {
        step.row += STEP;
        step.number += STEP;
        while (step.row >= step.end) {
            if (step.range == tile.ranges_end) {
                step.range = tile.ranges;
                step.head++;
            }
            if (step.head == (kv_head + 1) * group)
                break;
            QueryRange range = ranges[step.range++];
            // From the first that sees the tile's first key to the last that sees its last one.
            unsigned blind = tile.number > range.number ? tile.number - range.number : 0;
            unsigned behind = tile.number + tile.count - 1 + in.window, seeing = behind > range.number ? behind - range.number : 0;
            step.row = range.first + blind;
            step.end = seeing < range.end - range.first ? range.first + seeing : range.end;
            step.number = range.number + blind;
        }
        return step;
    };
    auto is_there = [&](const QueryStep &step) { return step.head < (kv_head + 1) * group; };
    auto load = [&](unsigned stage, const QueryStep &step) {
        auto query_row = [&](unsigned row) { return step.row + row; };
        unsigned of_head = step.head * in.head_dim, count = step.end - step.row;
        bf16 *to = stages + stage * STAGE;
        copy_rows<DIM, STEP>(to, in.q + of_head, query_stride(in), count, in.head_dim, query_row);
        copy_rows<DIM, STEP>(to + STEP * PITCH<DIM>, dout + of_head, query_stride(in), count, in.head_dim, query_row);
        if (threadIdx.x < STEP)
            copy_half_async(&numbers_of<DIM>(to + STEP * PITCH<DIM>, threadIdx.x), numbers + Index(step.row + threadIdx.x) * in.heads + step.head,
                            (threadIdx.x < count) * 8);
        commit_copies();
    };
    QueryStep step = next(QueryStep{kv_head * group, tile.ranges, 0, 0, 0});
    load(0, step);

    // Of this warp's rows, and which gradient it makes of them.
    unsigned warp = threadIdx.x / WARP, skipped = warp / 2 * OF_PAIR;
    bool is_of_k = warp % 2;
    unsigned count = tile.count > skipped ? tile.count - skipped : 0, key = tile.number + skipped;
    bf16 *staying = (is_of_k ? of_v : memory) + skipped * PITCH<DIM>;
    // What a lane leaves for that of the other warp, a pack for each 8 columns.
    float *of_lane = left + skipped * STEP + threadIdx.x % WARP * 4;
    float sums[FRAGMENTS][DIM / 8][4] = {};
    for (unsigned stage = 0; is_there(step);) {
        // The step is there, and nobody reads the last one, or what is left of it, any more.
        WAIT_FOR_COPIES(0);
        __syncthreads();
        bf16 *of_q = stages + stage * STAGE, *of_dout = of_q + STEP * PITCH<DIM>;
        QueryStep following = next(step);
        if (STEPS == 2) {
            stage = 1 - stage;
            if (is_there(following))
                load(stage, following);
        }
        unsigned queries = step.end - step.row < STEP ? step.end - step.row : STEP;
        bool is_seen = count > 0 && step.number + queries > key && step.number < key + OF_PAIR - 1 + in.window;
        float products[FRAGMENTS][STEP / 8][4] = {};
        unsigned weights[FRAGMENTS][STEP / 16][4];
        if (is_seen) {
            multiply_rows<DIM, FRAGMENTS, STEP>(products, staying, is_of_k ? of_dout : of_q);
            if (!is_of_k) {
                probabilities(
                    in.scoring, products, weights, [&](int, int c, int e) { return numbers_of<DIM>(of_dout, column_of(c, e)).logarithm; },
                    queries < STEP || step.number < key + OF_PAIR - 1 || step.number + STEP - 1 - key >= in.window, [&](int f, int c, int e) {
                        return (column_of(c, e) < queries) & sees(step.number + column_of(c, e), key + 16 * f + row_of(e), in.window);
                    });
                UNROLL
                for (int f = 0; f < FRAGMENTS; f++)
                    UNROLL
                    for (int c = 0; c < STEP / 8; c++)
                        store_pack(of_lane + (f * (STEP / 8) + c) * WARP * 4,
                                   Pack<float>{{products[f][c][0], products[f][c][1], products[f][c][2], products[f][c][3]}});
            }
        }
        // P is there.
        __syncthreads();
        if (is_seen) {
            if (is_of_k) {
                float p[FRAGMENTS][STEP / 8][4];
                UNROLL
                for (int f = 0; f < FRAGMENTS; f++)
                    UNROLL
                    for (int c = 0; c < STEP / 8; c++) {
                        Pack<float> pack = load_pack(of_lane + (f * (STEP / 8) + c) * WARP * 4);
                        UNROLL
                        for (int e = 0; e < 4; e++)
                            p[f][c][e] = pack.of[e];
                    }
                gradients_of_scores(weights, p, products, [&](int, int c, int e) { return numbers_of<DIM>(of_dout, column_of(c, e)).delta; });
            }
            multiply_weights<DIM, FRAGMENTS, STEP>(sums, weights, is_of_k ? of_q : of_dout);
        }
        if (STEPS == 1 && is_there(following)) {
            __syncthreads();
            load(0, following);
        }
        step = following;
    }
    if (count == 0)
        return;
    float factors[FRAGMENTS][2];
    UNROLL
    for (int f = 0; f < FRAGMENTS; f++)
        factors[f][0] = factors[f][1] = is_of_k ? in.scoring.scale : 1;
    Index first = Index(key_row(skipped)) * key_stride(in) + of_kv_head;
    store_rows<DIM, FRAGMENTS>((is_of_k ? dk : dv) + first, key_stride(in), count, in.head_dim, sums, factors, staying);
}

#define INPUTS                                                                                                                        \
    const bf16 *q, const bf16 *k, const bf16 *v, Index heads, Index kv_heads, Index head_dim, Index window, double scale, double cap, \
        double inverse_cap
#define THE_INPUTS \
    Inputs { q, k, v, unsigned(heads), unsigned(kv_heads), unsigned(head_dim), unsigned(window), {float(scale), float(cap), float(inverse_cap)} }
// Rows of a block of the forward, of queries and of keys in a step; how many times 16 rows stay in the backward, for a warp of one kernel and a
// pair of the other; and how many steps shared memory holds there, of keys and of queries: cuda.rs has the same numbers. How many blocks of the
// last kernel a multiprocessor has registers for.
#define FOR_DIM(DIM, QUERIES, KEYS, FOR_QUERIES, FOR_KEYS, STEPS, BLOCKS)                                                            \
    KERNEL_BLOCKS(THREADS, 2, flash_forward_##DIM, (INPUTS, bf16 *out, float *lse, const QueryTile *tiles)) {                        \
        forward<DIM, QUERIES, KEYS>(THE_INPUTS, out, lse, tiles);                                                                    \
    }                                                                                                                                \
    KERNEL_BLOCKS(THREADS, 2, flash_backward_queries_##DIM, (INPUTS, const bf16 *out, const float *lse, const bf16 *dout, bf16 *dq,  \
                                                             Numbers *numbers, const QueryTile *tiles)) {                            \
        backward_queries<DIM, FOR_QUERIES, STEPS>(THE_INPUTS, out, lse, dout, dq, numbers, tiles);                                   \
    }                                                                                                                                \
    KERNEL_BLOCKS(THREADS, BLOCKS, flash_backward_keys_##DIM, (INPUTS, const bf16 *dout, const Numbers *numbers, bf16 *dk, bf16 *dv, \
                                                               const KeyTile *tiles, const QueryRange *ranges)) {                    \
        backward_keys<DIM, FOR_KEYS, STEPS>(THE_INPUTS, dout, numbers, dk, dv, tiles, ranges);                                       \
    }
FOR_DIM(64, 128, 64, 2, 2, 2, 3)
FOR_DIM(96, 128, 64, 2, 2, 2, 2)
FOR_DIM(128, 128, 64, 2, 2, 2, 2)
FOR_DIM(256, 64, 32, 1, 1, 1, 2)
