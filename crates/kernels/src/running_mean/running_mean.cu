// A running mean of numbers, kept in double whatever they are stored in. Built without fused multiply-adds (build.rs), so that every
// operation rounds as the CPU's does and the bits are the same.
#include "../cuda/quad.cuh"

#define THREADS 256

// mean = x
template <typename T, bool PACKED> DEVICE void begin(double *mean, const T *x, Index len) {
    Index i = ((Index)blockIdx.x * blockDim.x + threadIdx.x) * QUAD;
    if (i >= len)
        return;
    Quad<T> now = load_quad<PACKED>(x + i, len - i);
    Quad<double> same;
    for (int e = 0; e < QUAD; e++)
        same.of[e] = now.of[e];
    store_quad<PACKED>(mean + i, same, len - i);
}

// mean = rest * mean + weight * x, where rest is 1 - weight; then y = mean, or with a start y = mean + way * (x - start).
template <typename T, bool PACKED>
DEVICE void step(T *y, double *mean, const T *x, const T *start, double rest, double weight, double way, Index len) {
    Index i = ((Index)blockIdx.x * blockDim.x + threadIdx.x) * QUAD;
    if (i >= len)
        return;
    Index there = len - i;
    Quad<T> now = load_quad<PACKED>(x + i, there), began = {}, after;
    Quad<double> sum = load_quad<PACKED>(mean + i, there);
    if (start)
        began = load_quad<PACKED>(start + i, there);
    for (int e = 0; e < QUAD; e++) {
        double here = now.of[e];
        sum.of[e] = rest * sum.of[e] + weight * here;
        double corrected = start ? way * (here - (double)began.of[e]) : 0.0;
        after.of[e] = (T)(sum.of[e] + corrected);
    }
    store_quad<PACKED>(mean + i, sum, there);
    store_quad<PACKED>(y + i, after, there);
}

#define FOR_LAYOUT(T, name, PACKED)                                                                          \
    KERNEL(THREADS, running_mean_begin_##name, (double *mean, const T *x, Index len)) {                      \
        begin<T, PACKED>(mean, x, len);                                                                      \
    }                                                                                                        \
    KERNEL(THREADS, running_mean_step_##name, (T *y, double *mean, const T *x, const T *start, double rest,  \
                                               double weight, double way, Index len)) {                      \
        step<T, PACKED>(y, mean, x, start, rest, weight, way, len);                                          \
    }

FOR_LAYOUT(float, f32, false)
FOR_LAYOUT(float, packed_f32, true)
FOR_LAYOUT(double, f64, false)
FOR_LAYOUT(double, packed_f64, true)
