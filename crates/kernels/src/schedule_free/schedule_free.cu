// Schedule-free AdamW over flat buffers. Built without fused multiply-adds (build.rs), so that every operation rounds as the CPU's does and
// the bits are the same. What all elements share comes rounded to the type of the arithmetic, and in double where groups change it first.
#include "../cuda/groups.cuh"

#define THREADS 256

// kept = params, then params += weight * (z - params)
template <typename T, bool PACKED> DEVICE void begin(T *params, T *kept, const T *z, T weight, Index len) {
    Index i = ((Index)blockIdx.x * blockDim.x + threadIdx.x) * QUAD;
    if (i >= len)
        return;
    Index there = len - i;
    Quad<T> p = load_quad<PACKED>(params + i, there), to = load_quad<PACKED>(z + i, there);
    store_quad<PACKED>(kept + i, p, there);
    for (int e = 0; e < QUAD; e++)
        p.of[e] += weight * (to.of[e] - p.of[e]);
    store_quad<PACKED>(params + i, p, there);
}

// What all elements share.
template <typename W> struct Numbers {
    W scale, beta2, rest2, root_correction2, eps, share;
};

template <typename W> struct Pace {
    W lr, weight_decay;
};

template <typename W> DEVICE Pace<W> pace_of(Rate rate) { return Pace<W>{(W)rate.lr, (W)rate.weight_decay}; }

// Gives the new average back; `p` is where the gradient was taken, `x` the old average, z and v are updated in place.
template <typename W> DEVICE W advance(W p, W grad, W x, W &z, W &v, const Numbers<W> &n, Pace<W> pace) {
    W g = grad * n.scale;
    v = v * n.beta2 + n.rest2 * g * g;
    W direction = g / (root(v) / n.root_correction2 + n.eps) + pace.weight_decay * p;
    z -= pace.lr * direction;
    return x + n.share * (z - x);
}

template <typename T, bool PACKED>
DEVICE void step(T *params, const T *grads, const T *kept, T *z, T *v, const Groups &groups, const Numbers<T> &n,
                 Index len) {
    Index i = ((Index)blockIdx.x * blockDim.x + threadIdx.x) * QUAD;
    if (i >= len)
        return;
    Index there = len - i;
    Quad<T> p = load_quad<PACKED>(params + i, there), g = load_quad<PACKED>(grads + i, there);
    Quad<T> x = load_quad<PACKED>(kept + i, there);
    Quad<T> qz = load_quad<PACKED>(z + i, there), qv = load_quad<PACKED>(v + i, there);
    // Where the group ends that `now` is of.
    Index end = groups.ends ? 0 : len;
    Pace<T> now = pace_of<T>(own_rate(groups));
    for (int e = 0; e < QUAD; e++) {
        if (i + e >= end && (Index)e < there) {
            Index group = group_of(groups, i + e);
            end = groups.ends[group];
            now = pace_of<T>(rate_of(groups, group));
        }
        p.of[e] = advance(p.of[e], g.of[e], x.of[e], qz.of[e], qv.of[e], n, now);
    }
    store_quad<PACKED>(z + i, qz, there);
    store_quad<PACKED>(v + i, qv, there);
    store_quad<PACKED>(params + i, p, there);
}

#define FOR_LAYOUT(T, name, PACKED)                                                                               \
    KERNEL(THREADS, schedule_free_begin_##name, (T *params, T *kept, const T *z, T weight, Index len)) {          \
        begin<T, PACKED>(params, kept, z, weight, len);                                                           \
    }                                                                                                             \
    KERNEL(THREADS, schedule_free_step_##name,                                                                    \
           (T *params, const T *grads, const T *kept, T *z, T *v, GROUP_PARAMETERS, T scale, T beta2, T rest2,    \
            T root_correction2, T eps, T share, Index len)) {                                                     \
        step<T, PACKED>(params, grads, kept, z, v, GROUPS,                                                        \
                        Numbers<T>{scale, beta2, rest2, root_correction2, eps, share}, len);                      \
    }

FOR_LAYOUT(float, f32, false)
FOR_LAYOUT(float, packed_f32, true)
FOR_LAYOUT(double, f64, false)
FOR_LAYOUT(double, packed_f64, true)
