// Sums of equal shapes, in place, and conversions. Built without fused multiply-adds (build.rs), so that each product of `mix` is rounded before the sum,
// as the CPU's is.
#include "../cuda/device.cuh"

#define THREADS 256

// The first element of this thread.
template <typename L> DEVICE Index first() { return ((Index)blockIdx.x * blockDim.x + threadIdx.x) * L::WIDTH; }

// y += x
template <typename T, bool PACKED> DEVICE void add_assign(T *y, const T *x, Index len) {
    typedef Lane<T, PACKED> L;
    Index i = first<L>();
    if (i >= len)
        return;
    L sum = L::load(y + i), other = L::load(x + i);
    for (int e = 0; e < L::WIDTH; e++)
        sum.of[e] += other.of[e];
    L::store(y + i, sum);
}

// y = weight * x + (1 - weight) * y; at a weight of 1 what y held is not read.
template <typename T, bool PACKED> DEVICE void mix(T *y, const T *x, double weight, Index len) {
    typedef Lane<T, PACKED> L;
    Index i = first<L>();
    if (i >= len)
        return;
    L mixed = L::load(x + i);
    if (weight != 1) {
        Wide<T> ours = (Wide<T>)(1.0 - weight), theirs = (Wide<T>)weight;
        L before = L::load(y + i);
        for (int e = 0; e < L::WIDTH; e++)
            mixed.of[e] = theirs * mixed.of[e] + ours * before.of[e];
    }
    L::store(y + i, mixed);
}

// y = x in its own type: rounded to the nearest value, ties to even.
template <typename T, bool PACKED> DEVICE void narrowed(T *y, const Wide<T> *x, Index len) {
    typedef Lane<T, PACKED> L;
    Index i = first<L>();
    if (i < len)
        L::store(y + i, L::load_wide(x + i));
}

// y = x in the type of its arithmetic: the same values.
template <typename T, bool PACKED> DEVICE void widened(Wide<T> *y, const T *x, Index len) {
    typedef Lane<T, PACKED> L;
    Index i = first<L>();
    if (i < len)
        L::store_wide(y + i, L::load(x + i));
}

#define FOR_LAYOUT(T, name, PACKED)                                                                 \
    KERNEL(THREADS, elementwise_add_assign_##name, (T *y, const T *x, Index len)) {                 \
        add_assign<T, PACKED>(y, x, len);                                                           \
    }                                                                                               \
    KERNEL(THREADS, elementwise_mix_##name, (T *y, const T *x, double weight, Index len)) {         \
        mix<T, PACKED>(y, x, weight, len);                                                          \
    }                                                                                               \
    KERNEL(THREADS, elementwise_narrow_##name, (T *y, const Wide<T> *x, Index len)) {               \
        narrowed<T, PACKED>(y, x, len);                                                             \
    }                                                                                               \
    KERNEL(THREADS, elementwise_widen_##name, (Wide<T> *y, const T *x, Index len)) {                \
        widened<T, PACKED>(y, x, len);                                                              \
    }

#define FOR_TYPE(T, name)              \
    FOR_LAYOUT(T, name, false)         \
    FOR_LAYOUT(T, packed_##name, true)

FOR_TYPE(float, f32)
FOR_TYPE(double, f64)
FOR_TYPE(bf16, bf16)
