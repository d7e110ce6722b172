// RMSNorm forward and backward. Sums over a row run in a fixed order, and parts of the weight's gradient are kept apart for
// each block of threads and are then summed in the order of blocks: the same bits for the same launch, without atomics.
//
// The forward pass reads a row twice, the second time from the first-level cache; the backward pass reads it once. Where rows are
// whole packs of 16 bytes, PACKED, threads move those; else single elements.
#include "../cuda/device.cuh"

#define THREADS 256
#define MOST_THREADS 1024

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

// dx (+)= rstd * (g - xhat * mean(g * xhat)) with g = dy * weight. One block of threads for a row at a time, with a lane of columns
// for each thread; blocks along y have the lanes of a row that is longer, and each of them forms the row's mean for itself.
//
// Where `partial` [gridDim.x, hidden] is given, each block writes there its rows' sum of dy * xhat, once: until then every thread
// keeps what its columns come to.
template <typename T, bool PACKED>
DEVICE void backward(const T *x, const T *weight, const Wide<T> *rstd, const T *dy, T *dx, int accumulate, Wide<T> *partial, Index rows, Index hidden) {
    typedef Lane<T, PACKED> L;
    Index c = ((Index)blockIdx.y * blockDim.x + threadIdx.x) * L::WIDTH;
    bool is_column = c < hidden;
    L w = {}, sums = {};
    if (is_column)
        w = L::load(weight + c);
    for (Index row = blockIdx.x; row < rows; row += gridDim.x) {
        const T *from = x + row * hidden, *d_from = dy + row * hidden;
        L v = {}, d = {};
        if (is_column) {
            v = L::load(from + c);
            d = L::load(d_from + c);
        }
        Wide<T> r = rstd[row], products = 0;
        if (gridDim.y == 1) {
            for (int i = 0; i < L::WIDTH; i++)
                products += d.of[i] * w.of[i] * v.of[i];
        } else {
            for (Index all = threadIdx.x * L::WIDTH; all < hidden; all += blockDim.x * L::WIDTH) {
                L of_d = L::load(d_from + all), of_w = L::load(weight + all), of_v = L::load(from + all);
                for (int i = 0; i < L::WIDTH; i++)
                    products += of_d.of[i] * of_w.of[i] * of_v.of[i];
            }
        }
        Wide<T> pull = sum_over_block(products) / (Wide<T>)hidden * r * r;
        if (!is_column)
            continue;
        L out = {};
        if (accumulate)
            out = L::load(dx + row * hidden + c);
        for (int i = 0; i < L::WIDTH; i++) {
            out.of[i] += r * (d.of[i] * w.of[i] - v.of[i] * pull);
            sums.of[i] += d.of[i] * widen(narrow<T>(v.of[i] * r));
        }
        L::store(dx + row * hidden + c, out);
    }
    if (partial && is_column)
        L::store_wide(partial + blockIdx.x * hidden + c, sums);
}

// dw += the sum of `parts` rows of `partial`: a block has 32 columns, one for each thread along x; threads along y take
// parts in turn, and the first of them adds their sums in order.
template <typename T> DEVICE void sum_parts(const T *partial, T *dw, Index parts, Index hidden) {
    SHARED(T, sums, MOST_THREADS);
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
    KERNEL(MOST_THREADS, rms_norm_backward_##name, (const T *x, const T *weight, const Wide<T> *rstd, const T *dy, T *dx,             \
                                               int accumulate, Wide<T> *partial, Index rows, Index hidden)) {                    \
        backward<T, PACKED>(x, weight, rstd, dy, dx, accumulate, partial, rows, hidden);                                         \
    }

#define FOR_TYPE(T, name)             \
    FOR_LAYOUT(T, name, false)        \
    FOR_LAYOUT(T, packed_##name, true)

FOR_TYPE(float, f32)
FOR_TYPE(double, f64)
FOR_TYPE(bf16, bf16)

KERNEL(MOST_THREADS, rms_norm_sum_parts_f32, (const float *partial, float *dw, Index parts, Index hidden)) {
    sum_parts<float>(partial, dw, parts, hidden);
}
KERNEL(MOST_THREADS, rms_norm_sum_parts_f64, (const double *partial, double *dw, Index parts, Index hidden)) {
    sum_parts<double>(partial, dw, parts, hidden);
}
