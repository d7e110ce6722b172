// Rows of a table by their ids, and the gradient of the table from buckets of equal ids that the host has made: no atomics, the same
// bits every time, and rows that no id names are not touched.
#include "../cuda/device.cuh"

#define THREADS 256

// The members of a bucket that are on their way at once.
#define BATCH 4

// y[row] = table[ids[row]], and NaN where the id is not below `known`.
template <typename T, bool PACKED> DEVICE void gather(const unsigned *ids, const T *table, T *y, Index known, Index rows, Index hidden) {
    typedef Lane<T, PACKED> L;
    L unknown;
    for (int i = 0; i < L::WIDTH; i++)
        unknown.of[i] = not_a_number(Wide<T>());
    for (Index row = blockIdx.x; row < rows; row += gridDim.x) {
        Index id = ids[row];
        for (Index c = threadIdx.x * L::WIDTH; c < hidden; c += blockDim.x * L::WIDTH)
            L::store(y + row * hidden + c, id < known ? L::load(table + id * hidden + c) : unknown);
    }
}

// dtable[ids[b]] += the sum of dy[members[m]] for m from starts[b] to starts[b + 1], in that order; a block along x has a bucket, along
// y a part of the columns. Ids that are not below `known` are skipped, and so is what of a bucket is beyond the `rows` of dy.
template <typename T, bool PACKED>
DEVICE void scatter(const unsigned *ids, const unsigned *starts, const unsigned *members, const T *dy, Wide<T> *dtable, Index known,
                    Index buckets, Index rows, Index hidden) {
    typedef Lane<T, PACKED> L;
    Index c = ((Index)blockIdx.y * blockDim.x + threadIdx.x) * L::WIDTH;
    if (c >= hidden)
        return;
    for (Index bucket = blockIdx.x; bucket < buckets; bucket += gridDim.x) {
        Index id = ids[bucket], end = starts[bucket + 1];
        if (id >= known)
            continue;
        if (end > rows)
            end = rows;
        L sum = {};
        for (Index m = starts[bucket]; m < end; m += BATCH) {
            L d[BATCH] = {};
            for (int j = 0; j < BATCH; j++) {
                Index row = m + j < end ? members[m + j] : rows;
                if (row < rows)
                    d[j] = L::load(dy + row * hidden + c);
            }
            for (int j = 0; j < BATCH; j++)
                for (int i = 0; i < L::WIDTH; i++)
                    sum.of[i] += d[j].of[i];
        }
        Wide<T> *to = dtable + id * hidden + c;
        L there = L::load_wide(to);
        for (int i = 0; i < L::WIDTH; i++)
            there.of[i] += sum.of[i];
        L::store_wide(to, there);
    }
}

#define FOR_LAYOUT(T, name, PACKED)                                                                                               \
    KERNEL(THREADS, embedding_forward_##name, (const unsigned *ids, const T *table, T *y, Index known, Index rows,                \
                                               Index hidden)) {                                                                   \
        gather<T, PACKED>(ids, table, y, known, rows, hidden);                                                                    \
    }                                                                                                                             \
    KERNEL(THREADS, embedding_backward_##name, (const unsigned *ids, const unsigned *starts, const unsigned *members, const T *dy, \
                                                Wide<T> *dtable, Index known, Index buckets, Index rows, Index hidden)) {         \
        scatter<T, PACKED>(ids, starts, members, dy, dtable, known, buckets, rows, hidden);                                       \
    }

#define FOR_TYPE(T, name)             \
    FOR_LAYOUT(T, name, false)        \
    FOR_LAYOUT(T, packed_##name, true)

FOR_TYPE(float, f32)
FOR_TYPE(double, f64)
FOR_TYPE(bf16, bf16)
