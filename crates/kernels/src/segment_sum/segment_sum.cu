// Sums of consecutive elements, and their gradients. A block of threads has a segment at a time; each thread sums
// every blockDim.x-th element in double, and the threads' sums are added in a fixed order.
#include "../cuda/device.cuh"

#define THREADS 256

// An element of weight 0 does not count, whatever its value.
template <typename T>
DEVICE void forward(const T *values, const unsigned *starts, const T *weights, T *sums, Index segments) {
    for (Index segment = blockIdx.x; segment < segments; segment += gridDim.x) {
        Index end = starts[segment + 1];
        double sum = 0;
        for (Index i = (Index)starts[segment] + threadIdx.x; i < end; i += blockDim.x) {
            T weight = weights ? weights[i] : T(1);
            if (weight != 0)
                sum += (double)weight * (double)values[i];
        }
        sum = sum_over_block(sum);
        if (threadIdx.x == 0)
            sums[segment] = (T)sum;
    }
}

template <typename T>
DEVICE void backward(const T *dsums, const unsigned *starts, const T *weights, T *dvalues, Index segments) {
    for (Index segment = blockIdx.x; segment < segments; segment += gridDim.x) {
        Index end = starts[segment + 1];
        T dsum = dsums[segment];
        for (Index i = (Index)starts[segment] + threadIdx.x; i < end; i += blockDim.x) {
            T weight = weights ? weights[i] : T(1);
            dvalues[i] = weight != 0 ? weight * dsum : T(0);
        }
    }
}

#define FOR_TYPE(T, name)                                                                             \
    KERNEL(THREADS, segment_sum_forward_##name,                                                       \
           (const T *values, const unsigned *starts, const T *weights, T *sums, Index segments)) {    \
        forward<T>(values, starts, weights, sums, segments);                                          \
    }                                                                                                 \
    KERNEL(THREADS, segment_sum_backward_##name,                                                      \
           (const T *dsums, const unsigned *starts, const T *weights, T *dvalues, Index segments)) {  \
        backward<T>(dsums, starts, weights, dvalues, segments);                                       \
    }

FOR_TYPE(float, f32)
FOR_TYPE(double, f64)
