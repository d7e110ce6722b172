// Attention by the ordinary units, for checking, for element types and head sizes that tensor cores have no kernel for.
//
// A warp has one query row of one head, or one key row of one key head. It goes along what that row sees in steps of 32: each lane makes
// one score, then all go through the 32 rows in order, each lane with its own elements of the head. Every sum has one order.
#include "tiles.cuh"

#define THREADS 128
// Elements of a head that a lane has: 256 in all.
#define EACH 8

// What attention reads, and what its scores are.
template <typename T> struct Inputs {
    const T *q, *k, *v;
    unsigned heads, kv_heads, head_dim, window;
    Scoring<Wide<T>> scoring;
};

template <typename T> DEVICE Wide<T> dot(const T *a, const T *b, unsigned length) {
    Wide<T> sum = 0;
    for (unsigned i = 0; i < length; i++)
        sum += widen(a[i]) * widen(b[i]);
    return sum;
}

template <typename T> DEVICE Wide<T> score(const Inputs<T> &in, const T *query, const T *key) {
    return score_of(in.scoring, dot(query, key, in.head_dim));
}

// Where a row of a head begins in q, and in k.
template <typename T> DEVICE Index query_at(const Inputs<T> &in, Index row, unsigned head) { return (row * in.heads + head) * in.head_dim; }
template <typename T> DEVICE Index key_at(const Inputs<T> &in, Index row, unsigned kv_head) { return (row * in.kv_heads + kv_head) * in.head_dim; }

// sums[e] += weight·row[lane + 32·e] for every lane of `rows` in turn, which has a weight and says where its row is.
template <typename T> DEVICE void add_rows(Wide<T> (&sums)[EACH], Wide<T> weight, const T *rows, Index at, unsigned count, unsigned head_dim) {
    unsigned lane = threadIdx.x % WARP;
    for (unsigned other = 0; other < count; other++) {
        Wide<T> factor = __shfl_sync(0xffffffffu, weight, other);
        const T *row = rows + __shfl_sync(0xffffffffu, at, other);
        for (int e = 0; e < EACH; e++)
            if (lane + WARP * e < head_dim)
                sums[e] += factor * widen(row[lane + WARP * e]);
    }
}

template <typename T> DEVICE void store_row(T *row, const Wide<T> (&sums)[EACH], Wide<T> factor, unsigned head_dim) {
    unsigned lane = threadIdx.x % WARP;
    for (int e = 0; e < EACH; e++)
        if (lane + WARP * e < head_dim)
            row[lane + WARP * e] = narrow<T>(factor * sums[e]);
}

// Calls `with` for each query row of the block's tile that is this warp's: blockIdx.x says which tile and head, blockIdx.y which rows.
template <typename F> DEVICE void for_rows(unsigned count, F with) {
    unsigned warps = blockDim.x / WARP;
    for (unsigned r = blockIdx.y * warps + threadIdx.x / WARP; r < count; r += gridDim.y * warps)
        with(r);
}

// out = softmax(scores)·v, lse the logarithm of the sum of their exponentials: the largest score and the sum first, then all again.
template <typename T> DEVICE void forward(const Inputs<T> &in, T *out, Wide<T> *lse, const QueryTile *tiles) {
    typedef Wide<T> W;
    unsigned lane = threadIdx.x % WARP, head = blockIdx.x % in.heads, kv_head = head / (in.heads / in.kv_heads);
    const QueryTile tile = tiles[blockIdx.x / in.heads];
    for_rows(tile.count, [&](unsigned r) {
        Index row = tile.first + r;
        unsigned query = number_of_first(tile) + r, begin = first_seen(query, in.window);
        const T *of_query = in.q + query_at(in, row, head);
        auto at_of = [&](unsigned key) { return key_at(in, row_of_key(tile, key <= query ? key : query), kv_head); };
        auto score_at = [&](unsigned key) { return key <= query ? score(in, of_query, in.k + at_of(key)) : minus_infinity(W()); };
        W top = minus_infinity(W()), sum = 0;
        for (unsigned key = begin + lane; key <= query; key += WARP) {
            W s = score_at(key), higher = largest(top, s);
            sum = sum * exponential(top - higher) + exponential(s - higher);
            top = higher;
        }
        W highest = largest_over_warp(top);
        sum = sum_over_warp(sum > 0 ? sum * exponential(top - highest) : sum);
        W sums[EACH] = {};
        for (unsigned from = begin; from <= query; from += WARP) {
            W p = exponential(score_at(from + lane) - highest);
            add_rows(sums, p, in.v, at_of(from + lane), query + 1 - from < WARP ? query + 1 - from : WARP, in.head_dim);
        }
        store_row(out + query_at(in, row, head), sums, 1 / sum, in.head_dim);
        if (lane == 0)
            lse[row * in.heads + head] = highest + logarithm(sum);
    });
}

// dq, and for each row what the gradients of keys need: delta, the sum of dout·out, and the inverse of the sum of exp(score - lse), which
// brings P back to a sum of 1.
template <typename T>
DEVICE void backward_queries(const Inputs<T> &in, const T *out, const Wide<T> *lse, const T *dout, T *dq, Wide<T> *deltas, Wide<T> *inverses,
                             const QueryTile *tiles) {
    typedef Wide<T> W;
    unsigned lane = threadIdx.x % WARP, head = blockIdx.x % in.heads, kv_head = head / (in.heads / in.kv_heads);
    const QueryTile tile = tiles[blockIdx.x / in.heads];
    for_rows(tile.count, [&](unsigned r) {
        Index row = tile.first + r, at = query_at(in, row, head);
        unsigned query = number_of_first(tile) + r, begin = first_seen(query, in.window);
        auto at_of = [&](unsigned key) { return key_at(in, row_of_key(tile, key <= query ? key : query), kv_head); };
        W delta = 0, sum = 0;
        for (unsigned c = lane; c < in.head_dim; c += WARP)
            delta += widen(dout[at + c]) * widen(out[at + c]);
        delta = sum_over_warp(delta);
        W of_row = lse[row * in.heads + head];
        for (unsigned key = begin + lane; key <= query; key += WARP)
            sum += exponential(score(in, in.q + at, in.k + at_of(key)) - of_row);
        W inverse = 1 / sum_over_warp(sum);
        if (lane == 0) {
            deltas[row * in.heads + head] = delta;
            inverses[row * in.heads + head] = inverse;
        }
        W sums[EACH] = {};
        for (unsigned from = begin; from <= query; from += WARP) {
            Index key = at_of(from + lane);
            W ds = 0;
            if (from + lane <= query) {
                W s = score(in, in.q + at, in.k + key), dp = dot(dout + at, in.v + key, in.head_dim);
                ds = exponential(s - of_row) * inverse * (dp - delta) * slope_of(in.scoring, s);
            }
            add_rows(sums, ds, in.k, key, query + 1 - from < WARP ? query + 1 - from : WARP, in.head_dim);
        }
        store_row(dq + at, sums, in.scoring.scale, in.head_dim);
    });
}

// dk and dv: the heads of a group one after the other, of each all ranges in their order.
template <typename T>
DEVICE void backward_keys(const Inputs<T> &in, const Wide<T> *lse, const T *dout, const Wide<T> *deltas, const Wide<T> *inverses, T *dk, T *dv,
                          const KeyTile *tiles, const QueryRange *ranges) {
    typedef Wide<T> W;
    unsigned lane = threadIdx.x % WARP, kv_head = blockIdx.x % in.kv_heads, group = in.heads / in.kv_heads;
    const KeyTile tile = tiles[blockIdx.x / in.kv_heads];
    for_rows(tile.count, [&](unsigned r) {
        Index of_key = key_at(in, tile.first + r, kv_head);
        unsigned key = tile.number + r;
        W sums_k[EACH] = {}, sums_v[EACH] = {};
        for (unsigned head = kv_head * group; head < (kv_head + 1) * group; head++)
            for (unsigned i = tile.ranges; i < tile.ranges_end; i++) {
                QueryRange range = ranges[i];
                for (unsigned from = range.first; from < range.end; from += WARP) {
                    bool is_inside = from + lane < range.end;
                    Index row = is_inside ? from + lane : range.end - 1, at = query_at(in, row, head);
                    W p = 0, ds = 0;
                    if (is_inside && sees(range.number + unsigned(row - range.first), key, in.window)) {
                        Index of_row = row * in.heads + head;
                        W s = score(in, in.q + at, in.k + of_key), dp = dot(dout + at, in.v + of_key, in.head_dim);
                        p = exponential(s - lse[of_row]) * inverses[of_row];
                        ds = p * (dp - deltas[of_row]) * slope_of(in.scoring, s);
                    }
                    unsigned count = range.end - from < WARP ? range.end - from : WARP;
                    add_rows(sums_v, p, dout, at, count, in.head_dim);
                    add_rows(sums_k, ds, in.q, at, count, in.head_dim);
                }
            }
        store_row(dk + of_key, sums_k, in.scoring.scale, in.head_dim);
        store_row(dv + of_key, sums_v, W(1), in.head_dim);
    });
}

// Keys that a warp of `decode` goes through, and what it leaves of them for each head: the largest score, the sum of exponentials relative to
// it, and that of the weighted values.
#define PART 128

// One query row against the rows of a cache, part by part: [parts, heads, 2 + head_dim].
template <typename T> DEVICE void decode(const Inputs<T> &in, Wide<T> *parts, Index rows) {
    typedef Wide<T> W;
    unsigned lane = threadIdx.x % WARP;
    Index number = (Index)blockIdx.x * (THREADS / WARP) + threadIdx.x / WARP, begin = first_seen(unsigned(rows - 1), in.window);
    unsigned head = number % in.heads, kv_head = head / (in.heads / in.kv_heads);
    Index from = begin + number / in.heads * PART;
    if (from >= rows)
        return;
    const T *query = in.q + query_at(in, 0, head);
    W scores[PART / WARP], highest = minus_infinity(W()), total = 0, sums[EACH] = {};
    for (int i = 0; i < PART / WARP; i++) {
        Index key = from + WARP * i + lane;
        scores[i] = key < rows ? score(in, query, in.k + key_at(in, key, kv_head)) : minus_infinity(W());
        highest = largest(highest, scores[i]);
    }
    highest = largest_over_warp(highest);
    for (int i = 0; i < PART / WARP; i++) {
        Index first = from + WARP * i;
        if (first >= rows)
            break;
        W p = exponential(scores[i] - highest);
        total += p;
        add_rows(sums, p, in.v, key_at(in, first + lane, kv_head), rows - first < WARP ? unsigned(rows - first) : WARP, in.head_dim);
    }
    total = sum_over_warp(total);
    W *part = parts + number * (2 + in.head_dim);
    if (lane == 0) {
        part[0] = highest;
        part[1] = total;
    }
    for (int e = 0; e < EACH; e++)
        if (lane + WARP * e < in.head_dim)
            part[2 + lane + WARP * e] = sums[e];
}

// The parts together in their order, one block a head.
template <typename T> DEVICE void decode_parts(const Wide<T> *parts, T *out, Index heads, Index head_dim, Index count) {
    typedef Wide<T> W;
    Index head = blockIdx.x, c = threadIdx.x;
    if (c >= head_dim)
        return;
    W highest = minus_infinity(W()), total = 0, sum = 0;
    for (Index part = 0; part < count; part++)
        highest = largest(highest, parts[(part * heads + head) * (2 + head_dim)]);
    for (Index part = 0; part < count; part++) {
        const W *of = parts + (part * heads + head) * (2 + head_dim);
        W weight = exponential(of[0] - highest);
        total += weight * of[1];
        sum += weight * of[2 + c];
    }
    out[head * head_dim + c] = narrow<T>(sum / total);
}

#define INPUTS(T) const T *q, const T *k, const T *v, Index heads, Index kv_heads, Index head_dim, Index window, \
    double scale, double cap, double inverse_cap
#define THE_INPUTS(T)                                                                                                                            \
    Inputs<T> {                                                                                                                                  \
        q, k, v, unsigned(heads), unsigned(kv_heads), unsigned(head_dim), unsigned(window), {Wide<T>(scale), Wide<T>(cap), Wide<T>(inverse_cap)} \
    }
#define FOR_TYPE(T, name, BLOCKS)                                                                                                         \
    KERNEL_BLOCKS(THREADS, BLOCKS, attention_forward_##name, (INPUTS(T), T *out, Wide<T> *lse, const QueryTile *tiles)) {                 \
        forward<T>(THE_INPUTS(T), out, lse, tiles);                                                                                       \
    }                                                                                                                                     \
    KERNEL_BLOCKS(THREADS, BLOCKS, attention_backward_queries_##name, (INPUTS(T), const T *out, const Wide<T> *lse, const T *dout, T *dq, \
                                                        Wide<T> *deltas, Wide<T> *inverses, const QueryTile *tiles)) {                    \
        backward_queries<T>(THE_INPUTS(T), out, lse, dout, dq, deltas, inverses, tiles);                                                  \
    }                                                                                                                                     \
    KERNEL_BLOCKS(THREADS, BLOCKS, attention_backward_keys_##name, (INPUTS(T), const Wide<T> *lse, const T *dout, const Wide<T> *deltas,  \
                                                     const Wide<T> *inverses, T *dk, T *dv, const KeyTile *tiles,                         \
                                                     const QueryRange *ranges)) {                                                         \
        backward_keys<T>(THE_INPUTS(T), lse, dout, deltas, inverses, dk, dv, tiles, ranges);                                              \
    }                                                                                                                                     \
    KERNEL(THREADS, attention_decode_##name, (INPUTS(T), Wide<T> *parts, Index rows)) { decode<T>(THE_INPUTS(T), parts, rows); }          \
    KERNEL(256, attention_decode_parts_##name, (const Wide<T> *parts, T *out, Index heads, Index head_dim, Index count)) {                \
        decode_parts<T>(parts, out, heads, head_dim, count);                                                                              \
    }
FOR_TYPE(float, f32, 6)
FOR_TYPE(double, f64, 3)
FOR_TYPE(bf16, bf16, 6)
