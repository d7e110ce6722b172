// Products of matrices, c (+)= scale·a·b for a [m, k], b [k, n] and c [m, n], of which a and b may be stored transposed.
//
// A block of threads makes one tile of c. It goes along k in steps: a strip of a's rows and one of b's columns, as deep as a
// step, come to shared memory, and each warp multiplies the rows and columns of its own part of the tile. Every sum is made
// in one place in the order of k, so a product has the same bits whenever it is made.
//
// * bf16: tensor cores, with sums in float. Shared memory holds three steps: while one is multiplied, copies of the next two
//   are under way. Packs of 16 bytes lie there in an order in which ldmatrix meets no conflict of banks. Where rows of a or b
//   do not begin on packs, elements are copied one by one, at once.
// * float and double: in full precision by the ordinary units, for checking and for small models.
// * Where c has too few tiles to fill a device and k is long, as for the gradients of LoRA's factors, each block makes only a
//   part of the sums of its tile, over its own range of k. The parts are apart, [parts, m, n], and product_sum_parts adds them in
//   their order.
#include "../cuda/tensor_cores.cuh"

// A matrix in memory: `rows` of `columns` elements, `stride` from one to the next.
struct Matrix {
    const bf16 *first;
    Index stride, rows, columns;
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

// How far it is from `at` to `end`, and `most` if it is more.
DEVICE int distance(Index at, Index end, int most) { return at >= end ? 0 : end - at < Index(most) ? int(end - at) : most; }

// LENGTH rows of a or columns of b, DEPTH deep, in shared memory, as they lie in memory: a row goes along the depth (DEEP) or
// along the length. The packs of a row are exchanged by its number, so that those of eight rows at one place, which are read
// at once, are in different banks.
template <int LENGTH, bool DEEP, bool PACKED, int THREADS> struct Tile {
    static constexpr int ELEMENTS = LENGTH * DEPTH;
    static constexpr int ROWS = DEEP ? LENGTH : DEPTH;
    static constexpr int PACKS = (DEEP ? DEPTH : LENGTH) / 8;
    // Packs of a thread.
    static constexpr int EACH = ROWS * PACKS / THREADS;
    static_assert(PACKS == 4 || PACKS % 8 == 0, "eight packs are 128 bytes, as all banks are");
    static_assert(EACH * THREADS == ROWS * PACKS, "all threads have as many packs");

    // The first element of a pack.
    DEVICE unsigned at(unsigned row, unsigned pack) {
        return (row * PACKS + (pack ^ (PACKS == 4 ? row / 2 % 4 : row % 8))) * 8;
    }
    // The thread's packs, by their number.
    DEVICE unsigned row_of(unsigned e) { return (threadIdx.x + e * THREADS) / PACKS; }
    DEVICE unsigned pack_of(unsigned e) { return (threadIdx.x + e * THREADS) % PACKS; }

    // What a thread copies in each step: from where in the next one, and how many elements along the rows are in the matrix.
    struct Share {
        const bf16 *from[EACH];
        int count[EACH];
        Index next;
    };

    // From `start` on along the length and `depth` along the depth.
    DEVICE Share share(const Matrix &matrix, Index start, Index depth) {
        Share share;
        share.next = DEEP ? DEPTH : DEPTH * matrix.stride;
        for (int e = 0; e < EACH; e++) {
            Index row = (DEEP ? start : depth) + row_of(e), column = (DEEP ? depth : start) + pack_of(e) * 8;
            share.from[e] = matrix.first + row * matrix.stride + column;
            share.count[e] = DEEP ? (row < matrix.rows ? 8 : 0) : distance(column, matrix.columns, 8);
        }
        return share;
    }

    // Begins to copy a step, or copies it where rows are not packed: `depth` of it are in the matrix, beyond which are zeros.
    DEVICE void copy(bf16 *tile, Share &share, int depth) {
        for (int e = 0; e < EACH; e++) {
            int deep = DEEP ? depth - int(pack_of(e)) * 8 : int(row_of(e)) < depth ? 8 : 0;
            int count = deep < share.count[e] ? (deep > 0 ? deep : 0) : share.count[e];
            bf16 *to = tile + at(row_of(e), pack_of(e));
            if constexpr (PACKED) {
                copy_async(to, share.from[e], unsigned(count) * 2);
            } else {
                Pack<bf16> pack;
                for (int i = 0; i < 8; i++)
                    pack.of[i] = i < count ? share.from[e][i] : narrow<bf16>(0);
                store_pack(to, pack);
            }
            share.from[e] += share.next;
        }
    }

    // 16 rows of a, or columns of b, from `start` on, 16 deep from `depth` on, as mma wants them: of a, registers 0 and 2 hold
    // the first 8 rows and 0 and 1 the first half of the depth; of b, 0 and 1 the first 8 columns and 0 and 2 the first half.
    template <bool IS_A> DEVICE void fragment(unsigned (&into)[4], const bf16 *tile, unsigned start, unsigned depth) {
        unsigned lane = threadIdx.x % WARP, low = lane / 8 % 2 * 8, high = lane / 16 * 8;
        unsigned along = IS_A ? low : high, deep = IS_A ? high : low;
        // Steps of 8 rows change no exchange, so they are the same for every lane.
        if constexpr (DEEP)
            load_matrices<false>(into, tile + start * DEPTH + at(along + lane % 8, (depth + deep) / 8));
        else
            load_matrices<true>(into, tile + depth * LENGTH + at(deep + lane % 8, (start + along) / 8));
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

// The tile [HEIGHT, WIDTH] of c whose number is blockIdx.x, from the part of k whose number is blockIdx.y, by two rows of
// warps, each of which makes [HEIGHT / 2, WARP_WIDTH].
template <int HEIGHT, int WIDTH, bool A_DEEP, bool B_DEEP, bool PACKED>
DEVICE void multiply(const Matrix &a, const Matrix &b, Result c, Index m, Index n, Index k, Index part) {
    constexpr int ACROSS = WIDTH / WARP_WIDTH, THREADS = 2 * ACROSS * WARP, FRAGMENTS = HEIGHT / 32;
    typedef Tile<HEIGHT, A_DEEP, PACKED, THREADS> TileA;
    typedef Tile<WIDTH, B_DEEP, PACKED, THREADS> TileB;
    constexpr int STAGE = TileA::ELEMENTS + TileB::ELEMENTS;
    SHARED(bf16, memory, STAGES * STAGE);
    unsigned warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    unsigned down = warp / ACROSS * (HEIGHT / 2), right = warp % ACROSS * WARP_WIDTH;
    Place place = Place::of(blockIdx.x, m, n, HEIGHT, WIDTH);
    Index depth = blockIdx.y * part, end = depth + part < k ? depth + part : k;

    auto share_a = TileA::share(a, place.row, depth);
    auto share_b = TileB::share(b, place.column, depth);
    int filled = 0, used = 0;
    Index ahead = depth;
    auto load = [&] {
        bf16 *stage = memory + filled * STAGE;
        if (ahead < end) {
            int inside = distance(ahead, k, DEPTH);
            TileA::copy(stage, share_a, inside);
            TileB::copy(stage + TileA::ELEMENTS, share_b, inside);
        }
        commit_copies();
        ahead += DEPTH;
        filled = filled + 1 < STAGES ? filled + 1 : 0;
    };
    for (int stage = 0; stage < STAGES - 1; stage++)
        load();
    float sums[FRAGMENTS][WARP_WIDTH / 8][4] = {};
    for (; depth < end; depth += DEPTH) {
        WAIT_FOR_COPIES(STAGES - 2);
        // Everybody's copies have landed, and nobody reads the stage of the last step any more.
        __syncthreads();
        load();
        const bf16 *tile_a = memory + used * STAGE, *tile_b = tile_a + TileA::ELEMENTS;
        used = used + 1 < STAGES ? used + 1 : 0;
        for (int at = 0; at < DEPTH; at += 16) {
            unsigned left[FRAGMENTS][4], top[WARP_WIDTH / 16][4];
            for (int i = 0; i < FRAGMENTS; i++)
                TileA::template fragment<true>(left[i], tile_a, down + 16 * i, at);
            for (int j = 0; j < WARP_WIDTH / 16; j++)
                TileB::template fragment<false>(top[j], tile_b, right + 16 * j, at);
            for (int i = 0; i < FRAGMENTS; i++)
                for (int j = 0; j < WARP_WIDTH / 8; j++)
                    mma(sums[i][j], left[i], top[j / 2][j % 2 * 2], top[j / 2][j % 2 * 2 + 1]);
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

// The tile [SIDE, SIDE] of c in the type itself, each thread 4 × 4 elements of it.
#define SIDE 64
#define PLAIN_THREADS 256
#define PLAIN_DEPTH 16
// Of a row of a strip in shared memory, so that those who write a column meet in no bank.
#define PLAIN_PITCH (SIDE + 1)

// SIDE rows of a, or columns of b, and what a thread copies of them in each step: four elements, `hop` apart in memory. Element
// (r, i) is along·r + deep·i after the first one.
template <typename T> struct Strip {
    static constexpr int EACH = SIDE * PLAIN_DEPTH / PLAIN_THREADS;
    const T *from;
    Index hop, next;
    int row, row_hop, depth, depth_hop, rows;

    DEVICE Strip of(const T *matrix, Index along, Index deep, Index start, Index length, Index depth) {
        Strip strip;
        int i = threadIdx.x;
        // Threads that follow each other read what follows each other.
        bool is_deep = deep == 1;
        strip.row = is_deep ? i / PLAIN_DEPTH : i % SIDE;
        strip.row_hop = is_deep ? PLAIN_THREADS / PLAIN_DEPTH : 0;
        strip.depth = is_deep ? i % PLAIN_DEPTH : i / SIDE;
        strip.depth_hop = is_deep ? 0 : PLAIN_THREADS / SIDE;
        strip.from = matrix + (start + strip.row) * along + (depth + strip.depth) * deep;
        strip.hop = strip.row_hop * along + strip.depth_hop * deep;
        strip.next = PLAIN_DEPTH * deep;
        strip.rows = distance(start, length, SIDE);
        return strip;
    }

    // Copies a step, of which `depth` is in the matrix, with zeros beyond it.
    DEVICE void copy(T *tile, Strip &strip, int depth) {
        for (int e = 0; e < EACH; e++) {
            int row = strip.row + e * strip.row_hop, deep = strip.depth + e * strip.depth_hop;
            tile[deep * PLAIN_PITCH + row] = row < strip.rows && deep < depth ? strip.from[e * strip.hop] : T(0);
        }
        strip.from += strip.next;
    }
};

// Element (r, i) of a is a_rows·r + a_depth·i after `a`, (i, c) of b b_depth·i + b_columns·c after `b`.
template <typename T>
DEVICE void multiply_plain(const T *a, Index a_rows, Index a_depth, const T *b, Index b_columns, Index b_depth, T *c,
                           Index c_stride, int accumulate, T scale, Index m, Index n, Index k, Index part) {
    SHARED(T, tile_a, PLAIN_DEPTH * PLAIN_PITCH);
    SHARED(T, tile_b, PLAIN_DEPTH * PLAIN_PITCH);
    int down = threadIdx.x / 16, right = threadIdx.x % 16;
    Place place = Place::of(blockIdx.x, m, n, SIDE, SIDE);
    Index depth = blockIdx.y * part, end = depth + part < k ? depth + part : k;
    auto strip_a = Strip<T>::of(a, a_rows, a_depth, place.row, m, depth);
    auto strip_b = Strip<T>::of(b, b_columns, b_depth, place.column, n, depth);
    T sums[4][4] = {};
    for (; depth < end; depth += PLAIN_DEPTH) {
        int inside = distance(depth, end, PLAIN_DEPTH);
        Strip<T>::copy(tile_a, strip_a, inside);
        Strip<T>::copy(tile_b, strip_b, inside);
        __syncthreads();
        for (int d = 0; d < PLAIN_DEPTH; d++)
            for (int i = 0; i < 4; i++)
                for (int j = 0; j < 4; j++)
                    sums[i][j] += tile_a[d * PLAIN_PITCH + down + 16 * i] * tile_b[d * PLAIN_PITCH + right + 16 * j];
        // The next step's elements go to the same place.
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
DEVICE void sum_parts(const Wide<T> *parts, T *c, Index stride, int accumulate, Wide<T> scale, Index m, Index n,
                      Index count) {
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
#define FOR_LAYOUT(name, SIZE, A_DEEP, B_DEEP, PACKED)                                                                \
    KERNEL(2 * SIZE, product_bf16_##name##_##SIZE,                                                                    \
           (const bf16 *a, Index a_stride, const bf16 *b, Index b_stride, void *c, Index c_stride, int c_packed,      \
            int is_float, int accumulate, double scale, Index m, Index n, Index k, Index part)) {                     \
        Matrix of_a{a, a_stride, A_DEEP ? m : k, A_DEEP ? k : m}, of_b{b, b_stride, B_DEEP ? n : k, B_DEEP ? k : n};  \
        Index before = blockIdx.y * m * n;                                                                            \
        void *into = is_float ? (void *)((float *)c + before) : (void *)((bf16 *)c + before);                         \
        Result of_c{into, c_stride, c_packed, is_float, accumulate, (float)scale};                                    \
        multiply<SIZE, SIZE, A_DEEP, B_DEEP, PACKED>(of_a, of_b, of_c, m, n, k, part);                                \
    }
#define FOR_SIZE(prefix, SIZE, PACKED)                 \
    FOR_LAYOUT(prefix##nn, SIZE, true, false, PACKED)  \
    FOR_LAYOUT(prefix##nt, SIZE, true, true, PACKED)   \
    FOR_LAYOUT(prefix##tn, SIZE, false, false, PACKED) \
    FOR_LAYOUT(prefix##tt, SIZE, false, true, PACKED)
FOR_SIZE(packed_, 128, true)
FOR_SIZE(packed_, 64, true)
FOR_SIZE(, 64, false)

#define FOR_TYPE(T, name)                                                                                             \
    KERNEL(PLAIN_THREADS, product_##name,                                                                             \
           (const T *a, Index a_rows, Index a_depth, const T *b, Index b_columns, Index b_depth, T *c, Index c_stride,\
            int accumulate, double scale, Index m, Index n, Index k, Index part)) {                                   \
        c += blockIdx.y * m * n;                                                                                      \
        multiply_plain<T>(a, a_rows, a_depth, b, b_columns, b_depth, c, c_stride, accumulate, (T)scale, m, n, k, part);\
    }
FOR_TYPE(float, f32)
FOR_TYPE(double, f64)

#define FOR_RESULT(T, name)                                                                                           \
    KERNEL(PLAIN_THREADS, product_sum_parts_##name,                                                                   \
           (const Wide<T> *parts, T *c, Index stride, int accumulate, double scale, Index m, Index n, Index count)) { \
        sum_parts<T>(parts, c, stride, accumulate, (Wide<T>)scale, m, n, count);                                      \
    }
FOR_RESULT(float, f32)
FOR_RESULT(double, f64)
FOR_RESULT(bf16, bf16)
