// Rows of a table by their ids, and the gradient of the table from buckets of equal ids that the host has made: no atomics, the same
// bits every time, and rows that no id names are not touched.
#include "../cuda/device.cuh"

#define THREADS 256

template <typename T, bool PACKED> DEVICE void gather(const unsigned *ids, const T *table, T *y, Index rows, Index hidden) {
    typedef Lane<T, PACKED> L;
    for (Index row = blockIdx.x; row < rows; row += gridDim.x)
        for (Index c = threadIdx.x * L::WIDTH; c < hidden; c += blockDim.x * L::WIDTH)
            L::store(y + row * hidden + c, L::load(table + (Index)ids[row] * hidden + c));
}

// dtable[ids[b]] += the sum of dy[members[m]] for m from starts[b] to starts[b + 1], in that order; a block along x has a bucket, along
// y a part of the columns.
template <typename T, bool PACKED>
DEVICE void scatter(const unsigned *ids, const unsigned *starts, const unsigned *members, const T *dy, Wide<T> *dtable, Index buckets,
                    Index hidden) {
    typedef Lane<T, PACKED> L;
    Index c = ((Index)blockIdx.y * blockDim.x + threadIdx.x) * L::WIDTH;
    if (c >= hidden)
        return;
    for (Index bucket = blockIdx.x; bucket < buckets; bucket += gridDim.x) {
        Wide<T> sum[L::WIDTH] = {};
        for (unsigned m = starts[bucket]; m < starts[bucket + 1]; m++) {
            L d = L::load(dy + (Index)members[m] * hidden + c);
            for (int i = 0; i < L::WIDTH; i++)
                sum[i] += d.of[i];
        }
        Wide<T> *to = dtable + (Index)ids[bucket] * hidden + c;
        for (int i = 0; i < L::WIDTH; i++)
            to[i] += sum[i];
    }
}

#define FOR_LAYOUT(T, name, PACKED)                                                                                               \
    KERNEL(THREADS, embedding_forward_##name, (const unsigned *ids, const T *table, T *y, Index rows, Index hidden)) {            \
        gather<T, PACKED>(ids, table, y, rows, hidden);                                                                           \
    }                                                                                                                             \
    KERNEL(THREADS, embedding_backward_##name, (const unsigned *ids, const unsigned *starts, const unsigned *members, const T *dy, \
                                                Wide<T> *dtable, Index buckets, Index hidden)) {                                  \
        scatter<T, PACKED>(ids, starts, members, dy, dtable, buckets, hidden);                                                    \
    }

#define FOR_TYPE(T, name)             \
    FOR_LAYOUT(T, name, false)        \
    FOR_LAYOUT(T, packed_##name, true)

FOR_TYPE(float, f32)
FOR_TYPE(double, f64)
FOR_TYPE(bf16, bf16)
