// Runs CUDA device code on the host, without a GPU, a driver or the CUDA toolkit.
//
// One fiber (a ucontext with a stack of its own) stands for each thread of a block; blocks run one after the other. A
// fiber runs until it must wait for others, at a barrier or a shuffle, and then hands over to the scheduler, which always
// resumes the first fiber that can go on: the one with the lowest number, or with the highest. A warp thus runs ahead of all
// others as far as the program lets it. In the two orders different warps do, so a program with a data race (a barrier that
// is missing, above all) gives different results, while a correct one gives the same bits. That comparison is the race
// detector.
//
// * Shared memory is filled with 0xFF bytes (a NaN as float or double) before each block, so that what nobody wrote shows.
// * __syncthreads is a meeting of all threads of a block. If some wait there while others have ended, or wait elsewhere
//   for good, the run stops with the number of the block.
// * A shuffle is a meeting of the 32 threads of a warp: each leaves its value, all arrive, each takes another's. Two sets
//   of slots take turns, since a fast thread may leave its next value before a slow one has taken the last.
//
// It cannot see what depends on time or on hardware: fences between blocks, alignment, register and shared memory limits,
// bank conflicts, fast-math differences. Use blocks of whole warps and small sizes; a meeting costs some 0.3 microseconds a
// thread.
#pragma once
#include <ucontext.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <vector>

#define KERNEL extern "C" void
#define DEVICE static inline
#define SHARED(type, name, length) \
    static char name##_site;       \
    type *name = static_cast<type *>(emulation::shared_at(&name##_site, sizeof(type) * (length)))
#define DYNAMIC_SHARED(type, name) type *name = static_cast<type *>(emulation::dynamic_shared())

struct Dim3 {
    unsigned x = 1, y = 1, z = 1;
};
static Dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulation {

enum class Order { Ascending, Descending };
enum class State { Ready, AtBarrier, AtShuffle, Ended };

constexpr unsigned WARP_SIZE = 32;
constexpr size_t STACK = 64 * 1024;

struct Fiber {
    ucontext_t context;
    std::unique_ptr<char[]> stack{new char[STACK]};
    Dim3 index;
    unsigned number = 0;
    State state = State::Ready;
    unsigned long shuffles = 0;
};

struct Block {
    std::vector<Fiber> fibers;
    std::map<const void *, std::vector<char>> shared;
    std::vector<char> dynamic;
    // [warp][turn][lane]
    std::vector<unsigned long long> slots;
};

static Block block;
static Fiber *running = nullptr;
static ucontext_t scheduler;
static std::function<void()> body;

[[noreturn]] inline void stop(const char *reason) {
    std::fprintf(stderr, "emulation: block (%u, %u, %u): %s\n", blockIdx.x, blockIdx.y, blockIdx.z, reason);
    std::exit(3);
}

inline void *shared_at(const void *site, size_t bytes) {
    std::vector<char> &memory = block.shared[site];
    if (memory.empty())
        memory.assign(bytes, static_cast<char>(0xff));
    return memory.data();
}

inline void *dynamic_shared() { return block.dynamic.data(); }

inline void wait_as(State state) {
    running->state = state;
    swapcontext(&running->context, &scheduler);
}

inline void fiber_main() {
    body();
    running->state = State::Ended;
    swapcontext(&running->context, &scheduler);
}

inline void resume(Fiber &fiber) {
    running = &fiber;
    threadIdx = fiber.index;
    swapcontext(&scheduler, &fiber.context);
}

inline bool all_in(size_t from, size_t to, State state) {
    for (size_t i = from; i < to; i++)
        if (block.fibers[i].state != state)
            return false;
    return true;
}

inline void release(size_t from, size_t to) {
    for (size_t i = from; i < to; i++)
        block.fibers[i].state = State::Ready;
}

// Lets the warp of a fiber go on if all of it has come to a shuffle.
inline bool release_warp_of(size_t number) {
    size_t from = number / WARP_SIZE * WARP_SIZE;
    if (!all_in(from, from + WARP_SIZE, State::AtShuffle))
        return false;
    release(from, from + WARP_SIZE);
    return true;
}

// Always resumes the first fiber, in the given order, that can go on: it runs ahead of all others as far as the program
// lets it.
inline void run_fibers(Order order) {
    size_t threads = block.fibers.size();
    auto number = [&](size_t place) { return order == Order::Ascending ? place : threads - 1 - place; };
    size_t place = 0;
    while (true) {
        while (place < threads && block.fibers[number(place)].state != State::Ready)
            place++;
        if (place == threads) {
            if (all_in(0, threads, State::Ended))
                return;
            if (!all_in(0, threads, State::AtBarrier))
                stop("threads wait for others that will not come: a barrier or shuffle in divergent code");
            release(0, threads);
            place = 0;
            continue;
        }
        resume(block.fibers[number(place)]);
        if (release_warp_of(number(place)))
            place = place / WARP_SIZE * WARP_SIZE;
    }
}

inline void run_block(size_t dynamic_bytes, Order order) {
    size_t threads = size_t(blockDim.x) * blockDim.y * blockDim.z;
    if (threads % WARP_SIZE)
        stop("the number of threads is not a multiple of the warp");
    if (block.fibers.size() != threads)
        block.fibers = std::vector<Fiber>(threads);
    block.shared.clear();
    block.dynamic.assign(dynamic_bytes, static_cast<char>(0xff));
    block.slots.assign(threads * 2, ~0ull);
    for (size_t i = 0; i < threads; i++) {
        Fiber &fiber = block.fibers[i];
        fiber.number = unsigned(i);
        fiber.state = State::Ready;
        fiber.shuffles = 0;
        fiber.index.x = unsigned(i) % blockDim.x;
        fiber.index.y = unsigned(i) / blockDim.x % blockDim.y;
        fiber.index.z = unsigned(i) / blockDim.x / blockDim.y;
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack.get();
        fiber.context.uc_stack.ss_size = STACK;
        fiber.context.uc_link = &scheduler;
        makecontext(&fiber.context, fiber_main, 0);
    }
    run_fibers(order);
}

// Runs a kernel as <<<grid, threads, dynamic_bytes>>> would.
inline void launch(Dim3 grid, Dim3 threads, size_t dynamic_bytes, Order order, std::function<void()> kernel) {
    gridDim = grid;
    blockDim = threads;
    body = std::move(kernel);
    for (blockIdx.z = 0; blockIdx.z < grid.z; blockIdx.z++)
        for (blockIdx.y = 0; blockIdx.y < grid.y; blockIdx.y++)
            for (blockIdx.x = 0; blockIdx.x < grid.x; blockIdx.x++)
                run_block(dynamic_bytes, order);
}

} // namespace emulation

inline void __syncthreads() { emulation::wait_as(emulation::State::AtBarrier); }

template <typename T> T __shfl_xor_sync(unsigned mask, T value, int distance) {
    using namespace emulation;
    static_assert(sizeof(T) <= sizeof(unsigned long long), "a register's worth");
    if (mask != 0xffffffffu)
        stop("only shuffles of a whole warp are emulated");
    unsigned lane = running->number % WARP_SIZE, warp = running->number / WARP_SIZE;
    unsigned long long *slots = &block.slots[(warp * 2 + running->shuffles++ % 2) * WARP_SIZE];
    std::memcpy(&slots[lane], &value, sizeof(T));
    wait_as(State::AtShuffle);
    std::memcpy(&value, &slots[lane ^ unsigned(distance)], sizeof(T));
    return value;
}
