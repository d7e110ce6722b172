// Lion over flat buffers. Built without fused multiply-adds (build.rs), so that every operation rounds as the CPU's does and the bits are the
// same. What all elements share comes rounded to the type of the arithmetic, and in double where groups change it first.
#include "../cuda/groups.cuh"

#define THREADS 256

// What all elements share.
template <typename W> struct Numbers {
    W scale, beta1, rest1, beta2, rest2;
};

// What a group's parameters keep in a step, and how far they go in it.
template <typename W> struct Pace {
    W keep, lr;
};

template <typename W> DEVICE Pace<W> pace_of(Rate rate) {
    return Pace<W>{(W)(1.0 - rate.lr * rate.weight_decay), (W)rate.lr};
}

// Gives the parameter back; m is updated in place.
template <typename W> DEVICE W advance(W p, W grad, W &m, const Numbers<W> &n, Pace<W> pace) {
    W g = grad * n.scale;
    W direction = m * n.beta1 + g * n.rest1;
    W up = direction > W(0) ? pace.lr : W(0), down = direction < W(0) ? pace.lr : W(0);
    m = m * n.beta2 + g * n.rest2;
    return p * pace.keep - up + down;
}

template <typename T, bool PACKED>
DEVICE void step(T *params, const T *grads, T *m, const Groups &groups, const Numbers<T> &n, Index len) {
    Index i = ((Index)blockIdx.x * blockDim.x + threadIdx.x) * QUAD;
    if (i >= len)
        return;
    Index there = len - i;
    Quad<T> p = load_quad<PACKED>(params + i, there), g = load_quad<PACKED>(grads + i, there);
    Quad<T> qm = load_quad<PACKED>(m + i, there);
    // Where the group ends that `now` is of.
    Index end = groups.ends ? 0 : len;
    Pace<T> now = pace_of<T>(own_rate(groups));
    for (int e = 0; e < QUAD; e++) {
        if (i + e >= end && (Index)e < there) {
            Index group = group_of(groups, i + e);
            end = groups.ends[group];
            now = pace_of<T>(rate_of(groups, group));
        }
        p.of[e] = advance(p.of[e], g.of[e], qm.of[e], n, now);
    }
    store_quad<PACKED>(m + i, qm, there);
    store_quad<PACKED>(params + i, p, there);
}

#define FOR_LAYOUT(T, name, PACKED)                                                                        \
    KERNEL(THREADS, lion_##name, (T *params, const T *grads, T *m, GROUP_PARAMETERS, T scale, T beta1,     \
                                  T rest1, T beta2, T rest2, Index len)) {                                 \
        step<T, PACKED>(params, grads, m, GROUPS, Numbers<T>{scale, beta1, rest1, beta2, rest2}, len);     \
    }

FOR_LAYOUT(float, f32, false)
FOR_LAYOUT(float, packed_f32, true)
FOR_LAYOUT(double, f64, false)
FOR_LAYOUT(double, packed_f64, true)
