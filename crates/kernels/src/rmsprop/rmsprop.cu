// RMSprop over flat buffers. Built without fused multiply-adds (build.rs), so that every operation rounds as the CPU's does and the bits are
// the same. What all elements share comes rounded to the type of the arithmetic, and in double where groups change it first.
#include "../cuda/groups.cuh"

#define THREADS 256

// What all elements share.
template <typename W> struct Numbers {
    W scale, alpha, rest, eps, momentum;
};

template <typename W> struct Pace {
    W lr, weight_decay;
};

template <typename W> DEVICE Pace<W> pace_of(Rate rate) { return Pace<W>{(W)rate.lr, (W)rate.weight_decay}; }

// `mean` and `velocity` where they are kept.
template <typename T, bool PACKED>
DEVICE void step(T *params, const T *grads, T *mean_square, T *mean, T *velocity, const Groups &groups,
                 const Numbers<T> &n, Index len) {
    Index i = ((Index)blockIdx.x * blockDim.x + threadIdx.x) * QUAD;
    if (i >= len)
        return;
    Index there = len - i;
    Quad<T> p = load_quad<PACKED>(params + i, there), grad = load_quad<PACKED>(grads + i, there);
    Quad<T> s = load_quad<PACKED>(mean_square + i, there), a = {}, b = {};
    if (mean)
        a = load_quad<PACKED>(mean + i, there);
    if (velocity)
        b = load_quad<PACKED>(velocity + i, there);
    // Where the group ends that `now` is of.
    Index end = groups.ends ? 0 : len;
    Pace<T> now = pace_of<T>(own_rate(groups));
    for (int e = 0; e < QUAD; e++) {
        if (i + e >= end && (Index)e < there) {
            Index group = group_of(groups, i + e);
            end = groups.ends[group];
            now = pace_of<T>(rate_of(groups, group));
        }
        T g = grad.of[e] * n.scale + p.of[e] * now.weight_decay;
        s.of[e] = s.of[e] * n.alpha + n.rest * g * g;
        T variance = s.of[e];
        if (mean) {
            a.of[e] += n.rest * (g - a.of[e]);
            variance -= a.of[e] * a.of[e];
            variance = variance > T(0) ? variance : T(0);
        }
        T update = g / (root(variance) + n.eps);
        if (velocity)
            update = b.of[e] = b.of[e] * n.momentum + update;
        p.of[e] -= now.lr * update;
    }
    store_quad<PACKED>(mean_square + i, s, there);
    if (mean)
        store_quad<PACKED>(mean + i, a, there);
    if (velocity)
        store_quad<PACKED>(velocity + i, b, there);
    store_quad<PACKED>(params + i, p, there);
}

#define FOR_LAYOUT(T, name, PACKED)                                                                             \
    KERNEL(THREADS, rmsprop_##name, (T *params, const T *grads, T *mean_square, T *mean, T *velocity,           \
                                     GROUP_PARAMETERS, T scale, T alpha, T rest, T eps, T momentum, Index len)) { \
        step<T, PACKED>(params, grads, mean_square, mean, velocity, GROUPS,                                     \
                        Numbers<T>{scale, alpha, rest, eps, momentum}, len);                                    \
    }

FOR_LAYOUT(float, f32, false)
FOR_LAYOUT(float, packed_f32, true)
FOR_LAYOUT(double, f64, false)
FOR_LAYOUT(double, packed_f64, true)
