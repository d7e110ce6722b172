// The norm of a flat gradient and what to make of it: two launches, the first with partial sums of squares, one a
// block, the second, of one block, with their sum. Squares and sums are in double. What a thread sums is decided by
// the length alone.
#include "../cuda/quad.cuh"

#define THREADS 256

template <typename T, bool PACKED> DEVICE void squares(const T *grads, double *parts, Index len) {
    double sum = 0;
    Index step = (Index)gridDim.x * blockDim.x * QUAD;
    for (Index i = ((Index)blockIdx.x * blockDim.x + threadIdx.x) * QUAD; i < len; i += step) {
        Quad<T> g = load_quad<PACKED>(grads + i, len - i);
        for (int e = 0; e < QUAD; e++)
            sum += (double)g.of[e] * (double)g.of[e];
    }
    sum = sum_over_block(sum);
    if (threadIdx.x == 0)
        parts[blockIdx.x] = sum;
}

#define FOR_LAYOUT(T, name, PACKED)                                                               \
    KERNEL(THREADS, clip_squares_##name, (const T *grads, double *parts, Index len)) {            \
        squares<T, PACKED>(grads, parts, len);                                                    \
    }

FOR_LAYOUT(float, f32, false)
FOR_LAYOUT(float, packed_f32, true)
FOR_LAYOUT(double, f64, false)
FOR_LAYOUT(double, packed_f64, true)

// result = [norm, factor, whether the norm is finite], where norm is the root of the sum of `parts`.
KERNEL(THREADS, clip_finish, (const double *parts, double *result, Index count, double max_norm)) {
    double sum = 0;
    for (Index part = threadIdx.x; part < count; part += blockDim.x)
        sum += parts[part];
    sum = sum_over_block(sum);
    if (threadIdx.x > 0)
        return;
    double norm = sqrt(sum), factor = max_norm > 0 ? max_norm / (norm + 1e-6) : 1;
    // NaN is below nothing.
    bool finite = norm < INFINITY;
    result[0] = norm;
    result[1] = !finite ? 0 : factor < 1 ? factor : 1;
    result[2] = finite ? 1 : 0;
}
