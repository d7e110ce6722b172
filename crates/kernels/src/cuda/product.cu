// Products of matrices, c (+)= scale·a·b for a [m, k], b [k, n] and c [m, n], of which a and b may be stored transposed.
//
// A block of threads makes one tile of c. It goes along k in steps: rows of a and columns of b of that depth come to shared
// memory, and every warp multiplies the parts that its own share of the tile wants. Each sum is made by one thread (or, on tensor
// cores, in one place) in the order of k, so a product has the same bits whenever it is made.
//
// * bf16: tensor cores, sums in float. Three steps are in shared memory at once: while one is multiplied, the copies of the next two
//   are under way. Packs of 16 bytes lie there in an order in which neither copies nor ldmatrix meet in a bank.
// * float and double: in full precision by the ordinary units, for checking and for small models.
// * Where c has too few tiles for a device and k is long, as for the gradients of thin matrices, several blocks make parts of
//   the same tile, each for a range of k of its own: `c` is then [parts, m, n], and product_sum_parts adds them in order.
#include "../cuda/tensor_cores.cuh"

// A matrix in memory: `rows` of `columns` elements, `stride` from one to the next. Every row begins on 16 bytes if `packed`.
struct Matrix {
    const bf16 *first;
    Index stride, rows, columns;
    int packed;
};

// Where the result goes. `packed`: rows begin on 16 bytes and are whole packs.
struct Result {
    void *first;
    Index stride;
    int packed, is_float, accumulate;
    float scale;
};

// The tile of c that a block makes, by its number. Tiles follow each other in groups of 8 rows of tiles, column by column, so
// that those made at the same time share what they read in the second-level cache.
struct Place {
    Index row, column;
    DEVICE Place of(Index number, Index m, Index n, int height, int width) {
        Index down = (m + height - 1) / height, across = (n + width - 1) / width;
        Index group = number / (8 * across), within = number % (8 * across);
        Index rows = down - 8 * group < 8 ? down - 8 * group : 8;
        return Place{(8 * group + within % rows) * height, within / rows * width};
    }
};

#define DEPTH 32
#define STAGES 3

// LENGTH rows of a or columns of b, DEPTH deep, in shared memory, as they lie in memory: a row goes along the depth (DEEP) or
// along the length. The packs of a row are exchanged by its number, so that those of eight rows at one place, which are read
// at once, are in different banks.
template <int LENGTH, bool DEEP> struct Tile {
    static constexpr int ELEMENTS = LENGTH * DEPTH;
    static constexpr int ROWS = DEEP ? LENGTH : DEPTH;
    static constexpr int PACKS = (DEEP ? DEPTH : LENGTH) / 8;
    static_assert(PACKS == 4 || PACKS % 8 == 0, "eight packs are 128 bytes, as all banks are");

    DEVICE int at(int row, int pack) { return (row * PACKS + (pack ^ (PACKS == 4 ? row / 2 % 4 : row % 8))) * 8; }

    // From `start` on along the length and `depth` along the depth; zeros beyond the matrix.
    DEVICE void load(bf16 *tile, const Matrix &from, Index start, Index depth, int threads) {
        for (int i = threadIdx.x; i < ROWS * PACKS; i += threads) {
            Index row = (DEEP ? start : depth) + i / PACKS, column = (DEEP ? depth : start) + i % PACKS * 8;
            const bf16 *source = from.first;
            int count = 0;
            if (row < from.rows && column < from.columns) {
                source += row * from.stride + column;
                count = from.columns - column < 8 ? int(from.columns - column) : 8;
            }
            bf16 *to = tile + at(i / PACKS, i % PACKS);
            if (from.packed) {
                copy_async(to, source, unsigned(count) * 2);
            } else {
                Pack<bf16> pack;
                for (int e = 0; e < 8; e++)
                    pack.of[e] = e < count ? source[e] : narrow<bf16>(0);
                store_pack(to, pack);
            }
        }
    }

    // The 16 rows or columns from `start` on, 16 deep from `depth` on. Registers 0 and 2 hold the first 8 of them, 1 and 3 the
    // others; 0 and 1 the first half of the depth.
    DEVICE void fragment(unsigned (&into)[4], const bf16 *tile, int start, int depth) {
        int lane = threadIdx.x % WARP, matrix = lane / 8;
        int along = start + matrix % 2 * 8, deep = depth + matrix / 2 * 8;
        if constexpr (DEEP)
            load_matrices<false>(into, tile + at(along + lane % 8, deep / 8));
        else
            load_matrices<true>(into, tile + at(deep + lane % 8, along / 8));
    }
};

// What a warp makes is this wide.
#define WARP_WIDTH 32
// Of 16 rows of sums in shared memory; float2 of four rows at once are in different banks.
#define PITCH 40

// c (+)= scale·sums for 16 rows of WARP_WIDTH sums, by a warp.
template <typename R, bool PACKED>
DEVICE void store_sums(const Result &c, const float *sums, Index row, Index column, Index m, Index n) {
    typedef Lane<R, PACKED> L;
    constexpr int LANES = WARP_WIDTH / L::WIDTH;
    for (int i = threadIdx.x % WARP; i < 16 * LANES; i += WARP) {
        int r = i / LANES, at = i % LANES * L::WIDTH;
        if (row + r >= m || column + at >= n)
            continue;
        R *to = static_cast<R *>(c.first) + (row + r) * c.stride + column + at;
        L lane;
        if (c.accumulate)
            lane = L::load(to);
        for (int e = 0; e < L::WIDTH; e++) {
            float product = c.scale * sums[r * PITCH + at + e];
            lane.of[e] = c.accumulate ? lane.of[e] + product : product;
        }
        L::store(to, lane);
    }
}

// The tile [HEIGHT, WIDTH] of c whose number is blockIdx.x, from the part of k whose number is blockIdx.y, by two rows of warps, each
// of which makes [HEIGHT / 2, WARP_WIDTH].
template <int HEIGHT, int WIDTH, bool A_DEEP, bool B_DEEP>
DEVICE void multiply(const Matrix &a, const Matrix &b, Result c, Index m, Index n, Index k, Index part) {
    typedef Tile<HEIGHT, A_DEEP> TileA;
    typedef Tile<WIDTH, B_DEEP> TileB;
    constexpr int ACROSS = WIDTH / WARP_WIDTH, THREADS = 2 * ACROSS * WARP, FRAGMENTS = HEIGHT / 32;
    SHARED(bf16, memory, STAGES * (TileA::ELEMENTS + TileB::ELEMENTS));
    int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    int down = warp / ACROSS * (HEIGHT / 2), right = warp % ACROSS * WARP_WIDTH;
    Place place = Place::of(blockIdx.x, m, n, HEIGHT, WIDTH);
    Index from = blockIdx.y * part, to = from + part < k ? from + part : k;

    auto stage = [&](Index step) { return memory + int(step % STAGES) * (TileA::ELEMENTS + TileB::ELEMENTS); };
    auto load = [&](Index step) {
        Index depth = from + step * DEPTH;
        if (depth < to) {
            TileA::load(stage(step), a, place.row, depth, THREADS);
            TileB::load(stage(step) + TileA::ELEMENTS, b, place.column, depth, THREADS);
        }
        commit_copies();
    };
    for (int step = 0; step < STAGES - 1; step++)
        load(step);
    float sums[FRAGMENTS][WARP_WIDTH / 8][4] = {};
    for (Index step = 0; from + step * DEPTH < to; step++) {
        WAIT_FOR_COPIES(STAGES - 2);
        // Everybody's copies have landed, and nobody reads the stage of the last step any more.
        __syncthreads();
        load(step + STAGES - 1);
        const bf16 *of_a = stage(step), *of_b = of_a + TileA::ELEMENTS;
        for (int depth = 0; depth < DEPTH; depth += 16) {
            unsigned left[FRAGMENTS][4], top[WARP_WIDTH / 16][4];
            for (int i = 0; i < FRAGMENTS; i++)
                TileA::fragment(left[i], of_a, down + 16 * i, depth);
            for (int j = 0; j < WARP_WIDTH / 16; j++)
                TileB::fragment(top[j], of_b, right + 16 * j, depth);
            for (int i = 0; i < FRAGMENTS; i++)
                for (int j = 0; j < WARP_WIDTH / 8; j++)
                    mma(sums[i][j], left[i], top[j / 2][j % 2], top[j / 2][j % 2 + 2]);
        }
    }

    // Sums go to memory in whole packs, through shared memory, 16 rows of the warp's at a time.
    __syncthreads();
    float *rows = reinterpret_cast<float *>(memory) + warp * 16 * PITCH;
    UNROLL
    for (int i = 0; i < FRAGMENTS; i++) {
        for (int j = 0; j < WARP_WIDTH / 8; j++)
            for (int e = 0; e < 4; e++)
                rows[(lane / 4 + e / 2 * 8) * PITCH + 8 * j + lane % 4 * 2 + e % 2] = sums[i][j][e];
        __syncwarp();
        Index row = place.row + down + 16 * i, column = place.column + right;
        if (c.is_float && c.packed)
            store_sums<float, true>(c, rows, row, column, m, n);
        else if (c.is_float)
            store_sums<float, false>(c, rows, row, column, m, n);
        else if (c.packed)
            store_sums<bf16, true>(c, rows, row, column, m, n);
        else
            store_sums<bf16, false>(c, rows, row, column, m, n);
        __syncwarp();
    }
}

// The tile [64, 64] of c, each thread 4 × 4 elements of it: element (r, i) of a is a_rows·r + a_depth·i from `a`, (i, c) of b
// b_depth·i + b_columns·c from `b`.
#define SIDE 64
#define SMALL_DEPTH 16
template <typename T>
DEVICE void multiply_plain(const T *a, Index a_rows, Index a_depth, const T *b, Index b_columns, Index b_depth, T *c, Index c_stride, int accumulate,
                           T scale, Index m, Index n, Index k, Index part) {
    // A row longer than the tile, so that those who write a column meet in no bank.
    SHARED(T, of_a, SMALL_DEPTH *(SIDE + 1));
    SHARED(T, of_b, SMALL_DEPTH *(SIDE + 1));
    int down = threadIdx.x / 16, right = threadIdx.x % 16;
    Place place = Place::of(blockIdx.x, m, n, SIDE, SIDE);
    Index from = blockIdx.y * part, to = from + part < k ? from + part : k;
    auto load = [&](T *tile, const T *matrix, Index along, Index deep, Index start, Index length, Index depth) {
        for (int i = threadIdx.x; i < SIDE * SMALL_DEPTH; i += 256) {
            // Neighbours read neighbours.
            int r = deep == 1 ? i / SMALL_DEPTH : i % SIDE, d = deep == 1 ? i % SMALL_DEPTH : i / SIDE;
            bool is_inside = start + r < length && depth + d < to;
            tile[d * (SIDE + 1) + r] = is_inside ? matrix[(start + r) * along + (depth + d) * deep] : T(0);
        }
    };
    T sums[4][4] = {};
    for (Index depth = from; depth < to; depth += SMALL_DEPTH) {
        load(of_a, a, a_rows, a_depth, place.row, m, depth);
        load(of_b, b, b_columns, b_depth, place.column, n, depth);
        __syncthreads();
        for (int d = 0; d < SMALL_DEPTH; d++)
            for (int i = 0; i < 4; i++)
                for (int j = 0; j < 4; j++)
                    sums[i][j] += of_a[d * (SIDE + 1) + down + 16 * i] * of_b[d * (SIDE + 1) + right + 16 * j];
        // The next step's numbers go to the same place.
        __syncthreads();
    }
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 4; j++) {
            Index row = place.row + down + 16 * i, column = place.column + right + 16 * j;
            if (row >= m || column >= n)
                continue;
            T *into = c + row * c_stride + column;
            *into = accumulate ? *into + scale * sums[i][j] : scale * sums[i][j];
        }
}

// c (+)= scale·(the sum of `parts` [parts, m, n]), one thread an element.
template <typename T>
DEVICE void sum_parts(const Wide<T> *parts, T *c, Index stride, int accumulate, Wide<T> scale, Index m, Index n, Index count) {
    Index i = (Index)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= m * n)
        return;
    Wide<T> sum = 0;
    for (Index part = 0; part < count; part++)
        sum += parts[part * m * n + i];
    T *into = c + i / n * stride + i % n;
    *into = narrow<T>(accumulate ? widen(*into) + scale * sum : scale * sum);
}

// How a factor is stored: n as it is, t transposed.
#define FOR_LAYOUT(name, SIZE, A_DEEP, B_DEEP)                                                                                    \
    KERNEL(2 * SIZE, product_bf16_##name##_##SIZE, (const bf16 *a, Index a_stride, int a_packed, const bf16 *b, Index b_stride,   \
                                                    int b_packed, void *c, Index c_stride, int c_packed, int is_float,            \
                                                    int accumulate, double scale, Index m, Index n, Index k, Index part)) {       \
        Matrix of_a{a, a_stride, A_DEEP ? m : k, A_DEEP ? k : m, a_packed}, of_b{b, b_stride, B_DEEP ? n : k, B_DEEP ? k : n, b_packed}; \
        Index elements = blockIdx.y * m * n;                                                                                      \
        void *into = is_float ? (void *)((float *)c + elements) : (void *)((bf16 *)c + elements);                                 \
        Result of_c{into, c_stride, c_packed, is_float, accumulate, (float)scale};                                                \
        multiply<SIZE, SIZE, A_DEEP, B_DEEP>(of_a, of_b, of_c, m, n, k, part);                                                    \
    }
#define FOR_SIZE(SIZE)                 \
    FOR_LAYOUT(nn, SIZE, true, false)  \
    FOR_LAYOUT(nt, SIZE, true, true)   \
    FOR_LAYOUT(tn, SIZE, false, false) \
    FOR_LAYOUT(tt, SIZE, false, true)
FOR_SIZE(128)
FOR_SIZE(64)

#define FOR_TYPE(T, name)                                                                                                          \
    KERNEL(256, product_##name, (const T *a, Index a_rows, Index a_depth, const T *b, Index b_columns, Index b_depth, T *c,        \
                                 Index c_stride, int accumulate, double scale, Index m, Index n, Index k, Index part)) {           \
        multiply_plain<T>(a, a_rows, a_depth, b, b_columns, b_depth, c + blockIdx.y * m * n, c_stride, accumulate, (T)scale, m, n, \
                          k, part);                                                                                                \
    }
FOR_TYPE(float, f32)
FOR_TYPE(double, f64)

#define FOR_RESULT(T, name)                                                                                                           \
    KERNEL(256, product_sum_parts_##name, (const Wide<T> *parts, T *c, Index stride, int accumulate, double scale, Index m, Index n, \
                                           Index count)) {                                                                            \
        sum_parts<T>(parts, c, stride, accumulate, (Wide<T>)scale, m, n, count);                                                      \
    }
FOR_RESULT(float, f32)
FOR_RESULT(double, f64)
FOR_RESULT(bf16, bf16)
