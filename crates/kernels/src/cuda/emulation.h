// Runs device code on the host, without a GPU, a driver or the CUDA toolkit.
//
// One fiber (a stack of its own) stands for each thread of a block; blocks run one after the other. A fiber runs until it
// must wait for others, at a barrier or at a meeting of its warp, and then hands over to the scheduler, which always resumes
// the first fiber that can go on: the one with the lowest number, or with the highest. A warp thus runs ahead of all others
// as far as the program lets it. In the two orders different warps do, so a program with a data race (a barrier that is
// missing, above all) gives different results, while a correct one gives the same bits; blocks, which are in no order on a
// device, run in the other order too. That comparison is the race
// detector; `emulated_drop` leaves one barrier or wait out, so that a test can see that the detector works.
//
// * Memory of the device and shared memory is filled with 0xFF bytes (a NaN in every type), so that what nobody wrote shows,
//   and has a border on both sides that is looked at after every launch.
// * A barrier is a meeting of all threads of a block, at one line. If some wait there while others have ended, or wait
//   elsewhere, the launch fails with the number of the block and the line.
// * A shuffle is a meeting of the 32 threads of a warp, at one line: each leaves its value, all arrive, each takes others'.
// * `mma` and `load_matrices` are meetings too, with the elements where the documentation of PTX has them.
//   How often rows that `load_matrices` reads at once meet in a bank of shared memory is counted.
// * An asynchronous copy poisons where it goes to and lands when its thread waits for its group.
// * Accesses of 16 bytes check that they are aligned and inside one buffer.
//
// It cannot see what depends on time or on hardware: fences between blocks, register limits, other bank conflicts, fast-math
// differences. A meeting costs some 0.1 microseconds a thread: use small sizes.
#pragma once
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <utility>

struct Dim3 {
    unsigned x = 1, y = 1, z = 1;
};
extern Dim3 threadIdx, blockIdx, blockDim, gridDim;

// Rounded to nearest, ties to even, as the device does.
struct bf16 {
    uint16_t bits;
};
inline float __bfloat162float(bf16 x) {
    uint32_t bits = uint32_t(x.bits) << 16;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}
inline bf16 __float2bfloat16_rn(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    if (std::isnan(x))
        return bf16{0x7fff};
    return bf16{uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}

namespace emulation {

constexpr unsigned WARP_SIZE = 32;

// A line of a source: where threads meet.
struct Site {
    const char *file;
    int line;
};

// Ends the launch with an error.
[[noreturn]] void fail(const char *reason, Site site);
// Shared memory of the block that runs, by the place that asks for it; the same for all threads.
void *shared_at(const void *place, size_t bytes, size_t alignment);
void *dynamic_shared();
void barrier(Site site);
// All lanes of the warp leave `bytes` bytes, at most 64, and get those of all 32, which stay until the next but one meeting.
constexpr size_t MOST_LEFT = 64;
const unsigned char *meet(const void *mine, size_t bytes, Site site);
unsigned lane();
void check_access(const void *pointer, size_t bytes, bool writes, Site site);
// A barrier of the warp: a meeting at which nothing is left.
void warp_barrier(Site site);

// See tensor_cores.cuh.
void mma(float (&sums)[4], const unsigned (&a)[4], unsigned b0, unsigned b1, Site site);
void load_matrices(unsigned (&into)[4], const void *row, bool transposed, Site site);
void copy_async(void *to, const void *from, unsigned bytes, unsigned whole, Site site);
void commit_copies();
void wait_for_copies(unsigned pending, Site site);

// A kernel by its name, called as the driver calls one: with an array of pointers to its arguments.
void add_kernel(const char *name, unsigned most_threads, void (*call)(void *function, void **arguments), void *function);

template <typename... Arguments> struct Registered {
    Registered(const char *name, unsigned most_threads, void (*function)(Arguments...)) {
        add_kernel(name, most_threads, call, reinterpret_cast<void *>(function));
    }
    static void call(void *function, void **arguments) { call_with(function, arguments, std::index_sequence_for<Arguments...>()); }
    template <size_t... I> static void call_with(void *function, void **arguments, std::index_sequence<I...>) {
        reinterpret_cast<void (*)(Arguments...)>(function)(*static_cast<Arguments *>(arguments[I])...);
    }
};

template <typename T> T taken_from(T value, unsigned other, Site site) {
    const unsigned char *all = meet(&value, sizeof value, site);
    std::memcpy(&value, all + size_t(other) * MOST_LEFT, sizeof value);
    return value;
}

inline bool any_of_warp(bool mine, Site site) {
    const unsigned char *all = meet(&mine, sizeof mine, site);
    for (unsigned lane = 0; lane < WARP_SIZE; lane++)
        if (all[lane * MOST_LEFT])
            return true;
    return false;
}

} // namespace emulation

#define EMULATION_SITE (emulation::Site{__FILE__, __LINE__})
#define KERNEL(most_threads, name, parameters)                                            \
    static void name parameters;                                                          \
    static emulation::Registered name##_registered(#name, unsigned(most_threads), &name); \
    static void name parameters
#define KERNEL_BLOCKS(most_threads, least_blocks, name, parameters) KERNEL(most_threads, name, parameters)
#define DEVICE static inline
#define SHARED(type, name, length) \
    static char name##_place;      \
    type *name = static_cast<type *>(emulation::shared_at(&name##_place, sizeof(type) * (length), 16))
#define DYNAMIC_SHARED(type, name) type *name = static_cast<type *>(emulation::dynamic_shared())
#define CHECK_ACCESS(pointer, bytes, writes) emulation::check_access(pointer, bytes, writes, EMULATION_SITE)

// Threads have their turns, so that nothing comes between the two halves.
inline unsigned emulated_or(unsigned *to, unsigned value) {
    unsigned before = *to;
    *to = before | value;
    return before;
}
#define atomicOr(to, value) (CHECK_ACCESS(to, sizeof(unsigned), true), emulated_or(to, value))

#define __syncthreads() emulation::barrier(EMULATION_SITE)
#define __syncwarp() emulation::warp_barrier(EMULATION_SITE)
// Only meetings of a whole warp are emulated.
#define EMULATION_WHOLE(mask) ((mask) == 0xffffffffu ? (void)0 : emulation::fail("a shuffle of a part of a warp", EMULATION_SITE))
#define __shfl_xor_sync(mask, value, distance) \
    (EMULATION_WHOLE(mask), emulation::taken_from(value, emulation::lane() ^ unsigned(distance), EMULATION_SITE))
#define __any_sync(mask, mine) (EMULATION_WHOLE(mask), emulation::any_of_warp(mine, EMULATION_SITE))
#define __shfl_sync(mask, value, from) \
    (EMULATION_WHOLE(mask), emulation::taken_from(value, unsigned(from) % emulation::WARP_SIZE, EMULATION_SITE))
