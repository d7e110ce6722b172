// RMSNorm forward and backward. Sums over a row run in a fixed order, and parts of the weight's gradient are kept apart for
// each block of threads and are then summed in the order of blocks: the same bits for the same launch, without atomics.
//
// A row is read twice, the second time from the first-level cache. Where rows are whole packs of 16 bytes, PACKED, threads
// move those; else single elements.
#include "../cuda/device.cuh"

#define THREADS 256

// y = x * rstd * weight, where x * rstd is rounded to the type before it is multiplied, as the models' own code does. With
// `residual`, `sum` = x + residual is what is normalised. One block of threads for a row at a time.
template <typename T, bool PACKED>
DEVICE void forward(const T *x, const T *residual, const T *weight, T *sum, T *y, Wide<T> *rstd, Index rows, Index hidden, Wide<T> eps) {
    typedef Lane<T, PACKED> L;
    for (Index row = blockIdx.x; row < rows; row += gridDim.x) {
        const T *from = x + row * hidden;
        Wide<T> squares = 0;
        for (Index c = threadIdx.x * L::WIDTH; c < hidden; c += blockDim.x * L::WIDTH) {
            L lane = L::load(from + c);
            if (residual) {
                L other = L::load(residual + row * hidden + c);
                for (int i = 0; i < L::WIDTH; i++)
                    lane.of[i] = widen(narrow<T>(lane.of[i] + other.of[i]));
                L::store(sum + row * hidden + c, lane);
            }
            for (int i = 0; i < L::WIDTH; i++)
                squares += lane.of[i] * lane.of[i];
        }
        Wide<T> r = reciprocal_root(sum_over_block(squares) / (Wide<T>)hidden + eps);
        if (threadIdx.x == 0)
            rstd[row] = r;
        // Each thread reads back what it has written itself.
        if (residual)
            from = sum + row * hidden;
        for (Index c = threadIdx.x * L::WIDTH; c < hidden; c += blockDim.x * L::WIDTH) {
            L lane = L::load(from + c), w = L::load(weight + c);
            for (int i = 0; i < L::WIDTH; i++)
                lane.of[i] = widen(narrow<T>(lane.of[i] * r)) * w.of[i];
            L::store(y + row * hidden + c, lane);
        }
    }
}

// dx (+)= rstd * (g - xhat * mean(g * xhat)) with g = dy * weight. Where `partial` [gridDim.x, hidden] is given, each block
// writes there its rows' sum of dy * xhat; every thread has columns of its own, so nothing is shared.
template <typename T, bool PACKED>
DEVICE void backward(const T *x, const T *weight, const Wide<T> *rstd, const T *dy, T *dx, int accumulate, Wide<T> *partial, Index rows, Index hidden) {
    typedef Lane<T, PACKED> L;
    if (partial)
        for (Index c = threadIdx.x * L::WIDTH; c < hidden; c += blockDim.x * L::WIDTH)
            for (int i = 0; i < L::WIDTH; i++)
                partial[blockIdx.x * hidden + c + i] = 0;
    for (Index row = blockIdx.x; row < rows; row += gridDim.x) {
        Index start = row * hidden;
        Wide<T> r = rstd[row];
        Wide<T> products = 0;
        for (Index c = threadIdx.x * L::WIDTH; c < hidden; c += blockDim.x * L::WIDTH) {
            L d = L::load(dy + start + c), w = L::load(weight + c), v = L::load(x + start + c);
            for (int i = 0; i < L::WIDTH; i++)
                products += d.of[i] * w.of[i] * v.of[i];
        }
        Wide<T> pull = sum_over_block(products) / (Wide<T>)hidden * r * r;
        for (Index c = threadIdx.x * L::WIDTH; c < hidden; c += blockDim.x * L::WIDTH) {
            L d = L::load(dy + start + c), w = L::load(weight + c), v = L::load(x + start + c), out;
            if (accumulate)
                out = L::load(dx + start + c);
            for (int i = 0; i < L::WIDTH; i++) {
                Wide<T> gradient = r * (d.of[i] * w.of[i] - v.of[i] * pull);
                out.of[i] = accumulate ? out.of[i] + gradient : gradient;
                if (partial)
                    partial[blockIdx.x * hidden + c + i] += d.of[i] * widen(narrow<T>(v.of[i] * r));
            }
            L::store(dx + start + c, out);
        }
    }
}

// dw += the sum of `parts` rows of `partial`: a block has 32 columns, one for each thread along x; threads along y take
// parts in turn, and the first of them adds their sums in order.
template <typename T> DEVICE void sum_parts(const T *partial, T *dw, Index parts, Index hidden) {
    SHARED(T, sums, THREADS);
    Index column = (Index)blockIdx.x * blockDim.x + threadIdx.x;
    T sum = 0;
    if (column < hidden)
        for (Index part = threadIdx.y; part < parts; part += blockDim.y)
            sum += partial[part * hidden + column];
    sums[threadIdx.y * blockDim.x + threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y == 0 && column < hidden) {
        T total = 0;
        for (unsigned y = 0; y < blockDim.y; y++)
            total += sums[y * blockDim.x + threadIdx.x];
        dw[column] += total;
    }
}

#define FOR_LAYOUT(T, name, PACKED)                                                                                              \
    KERNEL(THREADS, rms_norm_forward_##name, (const T *x, const T *residual, const T *weight, T *sum, T *y, Wide<T> *rstd,       \
                                              Index rows, Index hidden, double eps)) {                                           \
        forward<T, PACKED>(x, residual, weight, sum, y, rstd, rows, hidden, (Wide<T>)eps);                                       \
    }                                                                                                                            \
    KERNEL(THREADS, rms_norm_backward_##name, (const T *x, const T *weight, const Wide<T> *rstd, const T *dy, T *dx,             \
                                               int accumulate, Wide<T> *partial, Index rows, Index hidden)) {                    \
        backward<T, PACKED>(x, weight, rstd, dy, dx, accumulate, partial, rows, hidden);                                         \
    }

#define FOR_TYPE(T, name)             \
    FOR_LAYOUT(T, name, false)        \
    FOR_LAYOUT(T, packed_##name, true)

FOR_TYPE(float, f32)
FOR_TYPE(double, f64)
FOR_TYPE(bf16, bf16)

KERNEL(THREADS, rms_norm_sum_parts_f32, (const float *partial, float *dw, Index parts, Index hidden)) {
    sum_parts<float>(partial, dw, parts, hidden);
}
KERNEL(THREADS, rms_norm_sum_parts_f64, (const double *partial, double *dw, Index parts, Index hidden)) {
    sum_parts<double>(partial, dw, parts, hidden);
}
