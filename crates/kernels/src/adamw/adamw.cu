// AdamW over flat buffers. Built without fused multiply-adds (build.rs), so that every operation rounds as the CPU's
// does and the bits are the same. What all elements share comes rounded to the type of the arithmetic, and in double
// where groups change it first.
#include "../cuda/groups.cuh"
#include "../cuda/stochastic.cuh"

#define THREADS 256

// What all elements share. `keep` and `step_size` are those without groups, of which `own_step_size` is not rounded.
template <typename W> struct Numbers {
    double own_step_size;
    W keep, step_size, beta1, rest1, beta2, rest2, root_correction2, eps;
};

// What a group's parameters keep in a step, and how far they go in it.
template <typename W> struct Pace {
    W keep, step_size;
};

template <typename W> DEVICE Pace<W> pace_of(const Groups &groups, const Numbers<W> &n, Index group) {
    Rate rate = rate_of(groups, group);
    return Pace<W>{(W)(1.0 - rate.lr * rate.weight_decay), (W)(n.own_step_size * groups.lr[group])};
}

// Gives the parameter back; m and v are updated in place.
template <typename W> DEVICE W advance(W p, W g, W &m, W &v, const Numbers<W> &n, Pace<W> pace) {
    // PyTorch interpolates from the nearer end.
    m = n.rest1 < W(0.5) ? m + n.rest1 * (g - m) : g - (g - m) * n.beta1;
    v = v * n.beta2 + n.rest2 * g * g;
    W denominator = root(v) / n.root_correction2 + n.eps;
    return p * pace.keep - pace.step_size * m / denominator;
}

// A parameter as it is kept; in bf16 it is rounded by chance.
template <typename T> struct Kept {
    DEVICE T of(T p, unsigned) { return p; }
};
template <> struct Kept<bf16> {
    DEVICE bf16 of(float p, unsigned word) { return round_stochastically(p, word); }
};

// `clip` is the outcome of clip.cu: the factor of gradients, and whether there is to be a step at all. Without
// `groups.ends` all parameters learn alike. `copy` takes the parameters in bf16, rounded to nearest.
template <typename T, bool PACKED>
DEVICE void step(T *params, const Wide<T> *grads, Wide<T> *m, Wide<T> *v, bf16 *copy, const double *clip,
                 const Groups &groups, const Numbers<Wide<T>> &n, Index seed, Index count, Index len) {
    typedef Wide<T> W;
    Index i = ((Index)blockIdx.x * blockDim.x + threadIdx.x) * QUAD;
    if (i >= len || !(clip[2] > 0))
        return;
    Index there = len - i;
    W scale = (W)clip[1];
    Quad<T> p = load_quad<PACKED>(params + i, there);
    Quad<W> g = load_quad<PACKED>(grads + i, there);
    Quad<W> qm = load_quad<PACKED>(m + i, there), qv = load_quad<PACKED>(v + i, there);
    Words words = {};
    if (sizeof(T) == sizeof(bf16))
        words = draw(seed, count, i / QUAD);
    // Where the group ends that `now` is of.
    Index end = groups.ends ? 0 : len;
    Pace<W> now = {n.keep, n.step_size};
    for (int e = 0; e < QUAD; e++) {
        if (i + e >= end && (Index)e < there) {
            Index group = group_of(groups, i + e);
            end = groups.ends[group];
            now = pace_of(groups, n, group);
        }
        W value = advance(widen(p.of[e]), g.of[e] * scale, qm.of[e], qv.of[e], n, now);
        p.of[e] = Kept<T>::of(value, words.of[e]);
    }
    store_quad<PACKED>(m + i, qm, there);
    store_quad<PACKED>(v + i, qv, there);
    store_quad<PACKED>(params + i, p, there);
    if (copy) {
        Quad<bf16> nearest;
        for (int e = 0; e < QUAD; e++)
            nearest.of[e] = narrow<bf16>((float)widen(p.of[e]));
        store_quad<PACKED>(copy + i, nearest, there);
    }
}

#define SHARED_PARAMETERS(W)                                                                               \
    const double *clip, GROUP_PARAMETERS, double group_step_size, W keep, W step_size, W beta1, W rest1,   \
        W beta2, W rest2, W root_correction2, W eps
#define NUMBERS(W) \
    Numbers<W> { group_step_size, keep, step_size, beta1, rest1, beta2, rest2, root_correction2, eps }

#define FOR_LAYOUT(T, name, PACKED)                                                                        \
    KERNEL(THREADS, adamw_##name,                                                                          \
           (T *params, const T *grads, T *m, T *v, bf16 *copy, SHARED_PARAMETERS(T), Index len)) {         \
        step<T, PACKED>(params, grads, m, v, copy, clip, GROUPS, (NUMBERS(T)), 0, 0, len);                 \
    }

FOR_LAYOUT(float, f32, false)
FOR_LAYOUT(float, packed_f32, true)
FOR_LAYOUT(double, f64, false)
FOR_LAYOUT(double, packed_f64, true)

#define FOR_ROUNDED_LAYOUT(name, PACKED)                                                                   \
    KERNEL(THREADS, adamw_##name, (bf16 *params, const float *grads, float *m, float *v,                   \
                                   SHARED_PARAMETERS(float), Index seed, Index count, Index len)) {        \
        step<bf16, PACKED>(params, grads, m, v, nullptr, clip, GROUPS, (NUMBERS(float)), seed, count, len); \
    }

FOR_ROUNDED_LAYOUT(bf16, false)
FOR_ROUNDED_LAYOUT(packed_bf16, true)
