// Rows of logits: their sums and what follows from them, and their gradient in place. One block of threads has a row; the sums of a
// thread run relative to the largest logit that it has seen, and are put together in a fixed order.
//
// Rows of [rows, vocab] logits are `stride` elements apart, which are whole packs; what lies between the vocabulary's end and the next
// row is read as minus infinity and may be written.
#include "../cuda/device.cuh"

#define THREADS 512

template <typename W> struct Sums {
    // The largest logit, and with e = exp(l - largest): sums of e, e * e and e * (l - largest).
    W largest, exp, exp_sq, exp_shifted;
};

// Takes in logits of which none is larger than `sums.largest`, once that is raised to `largest_of_them`.
template <typename W, bool STATISTICS> DEVICE void raise(Sums<W> &sums, W largest_of_them) {
    if (!(largest_of_them > sums.largest))
        return;
    W down = sums.largest - largest_of_them, factor = exponential(down);
    if constexpr (STATISTICS) {
        // What is there weighs nothing at the beginning, where `down` is infinite.
        sums.exp_shifted = factor > 0 ? factor * (sums.exp_shifted + down * sums.exp) : 0;
        sums.exp_sq *= factor * factor;
    }
    sums.exp *= factor;
    sums.largest = largest_of_them;
}

// The logits of a thread from `c` on.
template <typename T> DEVICE Lane<T, true> logits_at(const T *logits, Index c, Index vocab) {
    typedef Lane<T, true> L;
    L lane = L::load(logits + c);
    if (c + L::WIDTH > vocab)
        for (int i = 0; i < L::WIDTH; i++)
            if (c + i >= vocab)
                lane.of[i] = minus_infinity(Wide<T>());
    return lane;
}

// The sums of a row; the same bits in each thread.
template <typename T, bool STATISTICS> DEVICE Sums<Wide<T>> sums_of_row(const T *logits, Index vocab) {
    typedef Wide<T> W;
    typedef Lane<T, true> L;
    Sums<W> sums = {minus_infinity(W()), 0, 0, 0};
    for (Index c = threadIdx.x * L::WIDTH; c < vocab; c += blockDim.x * L::WIDTH) {
        L lane = logits_at(logits, c, vocab);
        W most = lane.of[0];
        for (int i = 1; i < L::WIDTH; i++)
            most = largest(most, lane.of[i]);
        raise<W, STATISTICS>(sums, most);
        for (int i = 0; i < L::WIDTH; i++) {
            W shifted = lane.of[i] - sums.largest, e = exponential(shifted);
            sums.exp += e;
            if constexpr (STATISTICS) {
                sums.exp_sq += e * e;
                sums.exp_shifted += e > 0 ? e * shifted : 0;
            }
        }
    }
    raise<W, STATISTICS>(sums, largest_over_block(sums.largest));
    sums.exp = sum_over_block(sums.exp);
    if constexpr (STATISTICS) {
        sums.exp_sq = sum_over_block(sums.exp_sq);
        sums.exp_shifted = sum_over_block(sums.exp_shifted);
    }
    return sums;
}

// Whether a logit is larger than that of the target, or as large and of a smaller id; 1 or 0, for the sum over a row.
template <typename W> DEVICE W beats(W logit, Index id, W of_target, Index target) {
    return logit > of_target || (logit == of_target && id < target) ? 1 : 0;
}

// What follows from the row `blockIdx.x`: see `Outputs`. An output that is not wanted is null.
template <typename T, bool STATISTICS>
DEVICE void score(const T *logits, const unsigned *ids, const unsigned *given, Index given_each, Wide<T> *lse, Wide<T> *log_probs,
                  Wide<T> *mean_log_probs, Wide<T> *log_sum_sq_probs, Wide<T> *entropy, Wide<T> *is_top1, Wide<T> *given_log_probs,
                  Index vocab, Index stride) {
    typedef Wide<T> W;
    typedef Lane<T, true> L;
    Index row = blockIdx.x, target = ids[row];
    logits += row * stride;
    Sums<W> sums = sums_of_row<T, STATISTICS>(logits, vocab);
    W log_sum = logarithm(sums.exp), nan = not_a_number(W());
    W of_target = target < vocab ? widen(logits[target]) : nan;
    if (threadIdx.x == 0) {
        lse[row] = sums.largest + log_sum;
        log_probs[row] = of_target - sums.largest - log_sum;
        if (log_sum_sq_probs)
            log_sum_sq_probs[row] = logarithm(sums.exp_sq) - 2 * log_sum;
        if (entropy)
            entropy[row] = log_sum - sums.exp_shifted / sums.exp;
    }
    for (Index k = threadIdx.x; k < given_each; k += blockDim.x) {
        Index id = given[row * given_each + k];
        given_log_probs[row * given_each + k] = (id < vocab ? widen(logits[id]) : nan) - sums.largest - log_sum;
    }
    // Rarely wanted, so that a second reading of the row is cheaper than carrying them along.
    if (!mean_log_probs && !is_top1)
        return;
    W shifted = 0, better = 0;
    for (Index c = threadIdx.x * L::WIDTH; c < vocab; c += blockDim.x * L::WIDTH) {
        L lane = logits_at(logits, c, vocab);
        for (int i = 0; i < L::WIDTH; i++) {
            shifted += c + i < vocab ? lane.of[i] - sums.largest : 0;
            better += beats(lane.of[i], c + i, of_target, target);
        }
    }
    shifted = sum_over_block(shifted);
    better = sum_over_block(better);
    if (threadIdx.x == 0 && mean_log_probs)
        mean_log_probs[row] = shifted / (W)vocab - log_sum;
    if (threadIdx.x == 0 && is_top1)
        // A logit that is NaN is beaten by nobody.
        is_top1[row] = better == 0 && of_target == of_target ? 1 : 0;
}

// Cotangents of one row, and what of it they are multiplied with.
template <typename W> struct Weights {
    W shift, log_sum, inverse_sum, inverse_sum_sq_probs, row_entropy;
    // Of -p, of 1, of p * p over its sum, and of -p * (log p + entropy).
    W all, every, twice_sq, entropy;
};

// The gradient of a logit without the terms of single ids.
template <typename W, bool STATISTICS> DEVICE W gradient_of(W logit, const Weights<W> &weights) {
    W shifted = logit - weights.shift;
    W p = exponential(shifted) * weights.inverse_sum;
    if constexpr (!STATISTICS)
        return -p * weights.all;
    W log_p = shifted - weights.log_sum, share = p * p * weights.inverse_sum_sq_probs;
    return weights.every + weights.twice_sq * share - p * (weights.all + weights.entropy * (log_p + weights.row_entropy));
}

// The cotangent of the log-probability of an id: of the row's target, and of all given ids that are the same.
template <typename W>
DEVICE W direct_of(Index id, Index target, W of_target, const unsigned *given, const W *d_given, Index given_each) {
    W sum = id == target ? of_target : 0;
    for (Index k = 0; k < given_each; k++)
        if (given[k] == id)
            sum += d_given[k];
    return sum;
}

// Replaces the row `blockIdx.x` by its gradient: see `backward` for the terms. Cotangents that are null are zero,
// but where `ones`, that of the log-probability is 1. `kept` [rows, given_each] is scratch. NORMALISED computes sums again; without
// it `lse` is that of the very logits.
template <typename T, bool NORMALISED, bool STATISTICS>
DEVICE void differentiate(T *logits, const unsigned *ids, const unsigned *given, Index given_each, const Wide<T> *lse, int ones,
                          const Wide<T> *d_log_probs, const Wide<T> *d_mean, const Wide<T> *d_log_sum_sq, const Wide<T> *d_entropy,
                          const Wide<T> *d_given, Wide<T> *kept, Index vocab, Index stride) {
    typedef Wide<T> W;
    typedef Lane<T, true> L;
    Index row = blockIdx.x, target = ids[row];
    logits += row * stride;
    given += row * given_each;
    kept += row * given_each;
    if (d_given)
        d_given += row * given_each;
    else
        given_each = 0;
    W of_target = ones ? 1 : d_log_probs ? d_log_probs[row] : 0;
    W mean = d_mean ? d_mean[row] : 0, log_sum_sq = d_log_sum_sq ? d_log_sum_sq[row] : 0;
    Weights<W> weights;
    weights.all = of_target + mean + 2 * log_sum_sq;
    for (Index k = 0; k < given_each; k++)
        weights.all += d_given[k];
    weights.every = mean / (W)vocab;
    weights.twice_sq = 2 * log_sum_sq;
    weights.entropy = d_entropy ? d_entropy[row] : 0;
    if (weights.all == 0 && weights.every == 0 && weights.twice_sq == 0 && weights.entropy == 0 && of_target == 0 && given_each == 0) {
        L zeros = {};
        for (Index c = threadIdx.x * L::WIDTH; c < vocab; c += blockDim.x * L::WIDTH)
            L::store(logits + c, zeros);
        return;
    }
    if constexpr (NORMALISED) {
        Sums<W> sums = sums_of_row<T, STATISTICS>(logits, vocab);
        weights.shift = sums.largest;
        weights.log_sum = logarithm(sums.exp);
        weights.inverse_sum = 1 / sums.exp;
        weights.inverse_sum_sq_probs = sums.exp * sums.exp / sums.exp_sq;
        weights.row_entropy = weights.log_sum - sums.exp_shifted / sums.exp;
    } else {
        weights.shift = lse[row];
        weights.inverse_sum = 1;
    }
    // The gradients of given ids are made from their logits before these are overwritten.
    for (Index k = threadIdx.x; k < given_each; k += blockDim.x)
        if (given[k] < vocab)
            kept[k] = gradient_of<W, STATISTICS>(widen(logits[given[k]]), weights) +
                      direct_of(given[k], target, of_target, given, d_given, given_each);
    if (given_each > 0)
        __syncthreads();
    for (Index c = threadIdx.x * L::WIDTH; c < vocab; c += blockDim.x * L::WIDTH) {
        L lane = logits_at(logits, c, vocab);
        for (int i = 0; i < L::WIDTH; i++) {
            lane.of[i] = gradient_of<W, STATISTICS>(lane.of[i], weights);
            if (c + i == target)
                lane.of[i] += of_target;
        }
        L::store(logits + c, lane);
    }
    if (given_each > 0)
        __syncthreads();
    for (Index k = threadIdx.x; k < given_each; k += blockDim.x)
        if (given[k] < vocab)
            logits[given[k]] = narrow<T>(kept[k]);
}

// d_hidden[ids[b]] += the sum of weight * pulls[members[m] - first] for m from starts[b] to starts[b + 1], in that order, of the members
// from `first` on and before `end`, with the weight that the member has, or 1. Blocks along x take buckets in turn, along y they have a
// part of the columns.
template <typename T, bool PACKED>
DEVICE void pull(const unsigned *ids, const unsigned *starts, const unsigned *members, const T *pulls, const Wide<T> *weights, T *d_hidden,
                 Index buckets, Index first, Index end, Index hidden) {
    typedef Lane<T, PACKED> L;
    Index c = ((Index)blockIdx.y * blockDim.x + threadIdx.x) * L::WIDTH;
    if (c >= hidden)
        return;
    for (Index bucket = blockIdx.x; bucket < buckets; bucket += gridDim.x) {
        unsigned m = starts[bucket], last = starts[bucket + 1];
        while (m < last && members[m] < first)
            m++;
        if (m == last || members[m] >= end)
            continue;
        T *to = d_hidden + (Index)ids[bucket] * hidden + c;
        L sum = L::load(to);
        for (; m < last && members[m] < end; m++) {
            L lane = L::load(pulls + (members[m] - first) * hidden + c);
            Wide<T> weight = weights ? weights[members[m]] : 1;
            for (int i = 0; i < L::WIDTH; i++)
                sum.of[i] += weight * lane.of[i];
        }
        L::store(to, sum);
    }
}

#define SCORE(T, name, STATISTICS)                                                                                               \
    KERNEL(THREADS, token_log_probs_##name,                                                                                      \
           (const T *logits, const unsigned *ids, const unsigned *given, Index given_each, Wide<T> *lse, Wide<T> *log_probs,     \
            Wide<T> *mean_log_probs, Wide<T> *log_sum_sq_probs, Wide<T> *entropy, Wide<T> *is_top1, Wide<T> *given_log_probs,    \
            Index vocab, Index stride)) {                                                                                        \
        score<T, STATISTICS>(logits, ids, given, given_each, lse, log_probs, mean_log_probs, log_sum_sq_probs, entropy, is_top1, \
                             given_log_probs, vocab, stride);                                                                    \
    }

#define DIFFERENTIATE(T, name, NORMALISED, STATISTICS)                                                                         \
    KERNEL(THREADS, token_log_probs_##name,                                                                                    \
           (T * logits, const unsigned *ids, const unsigned *given, Index given_each, const Wide<T> *lse, int ones,            \
            const Wide<T> *d_log_probs, const Wide<T> *d_mean, const Wide<T> *d_log_sum_sq, const Wide<T> *d_entropy,          \
            const Wide<T> *d_given, Wide<T> *kept, Index vocab, Index stride)) {                                               \
        differentiate<T, NORMALISED, STATISTICS>(logits, ids, given, given_each, lse, ones, d_log_probs, d_mean, d_log_sum_sq, \
                                                 d_entropy, d_given, kept, vocab, stride);                                     \
    }

#define PULL(T, name, PACKED)                                                                                             \
    KERNEL(THREADS, token_log_probs_pull_##name,                                                                          \
           (const unsigned *ids, const unsigned *starts, const unsigned *members, const T *pulls, const Wide<T> *weights, \
            T *d_hidden, Index buckets, Index first, Index end, Index hidden)) {                                          \
        pull<T, PACKED>(ids, starts, members, pulls, weights, d_hidden, buckets, first, end, hidden);                     \
    }

#define FOR_TYPE(T, name, NORMALISED)                        \
    SCORE(T, score_##name, false)                            \
    SCORE(T, statistics_##name, true)                        \
    DIFFERENTIATE(T, gradient_##name, NORMALISED, false)     \
    DIFFERENTIATE(T, statistics_gradient_##name, true, true) \
    PULL(T, name, false)                                     \
    PULL(T, packed_##name, true)

FOR_TYPE(float, f32, true)
FOR_TYPE(double, f64, true)
FOR_TYPE(bf16, bf16, false)
