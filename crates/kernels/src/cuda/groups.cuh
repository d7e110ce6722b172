// Stretches of a flat buffer of parameters that learn at rates of their own, or do not decay.
#pragma once
#include "quad.cuh"

// Parameters from ends[g - 1] to ends[g] learn lr[g] times as fast and decay weight_decay[g] times as much as the
// step's own numbers say. Without `ends` all learn alike.
struct Groups {
    const Index *ends;
    const double *lr, *weight_decay;
    Index count;
    double own_lr, own_decay;
};

// The first group that ends beyond element i, or the last.
DEVICE Index group_of(const Groups &groups, Index i) {
    Index low = 0, high = groups.count - 1;
    while (low < high) {
        Index middle = (low + high) / 2;
        if (groups.ends[middle] > i)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

struct Rate {
    double lr, weight_decay;
};

DEVICE Rate own_rate(const Groups &groups) { return Rate{groups.own_lr, groups.own_decay}; }
DEVICE Rate rate_of(const Groups &groups, Index group) {
    return Rate{groups.own_lr * groups.lr[group], groups.own_decay * groups.weight_decay[group]};
}

#define GROUP_PARAMETERS                                                                                  \
    const Index *ends, const double *group_lr, const double *group_decay, Index group_count, double lr,   \
        double weight_decay
#define GROUPS \
    Groups { ends, group_lr, group_decay, group_count, lr, weight_decay }
