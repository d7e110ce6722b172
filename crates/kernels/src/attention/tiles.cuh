// Tiles of attention, as tiles.rs makes them, and what kernels of all kinds know of scores.
//
// The keys of a sequence have numbers from 0 on, first those of the prompt that it shares; the query of number i sees the keys up to i.
#pragma once
#include "../cuda/device.cuh"

// Rows from `first` on that are queries of one sequence, whose own rows begin at `own`.
struct QueryTile {
    unsigned first, count, own, shared, shared_len;
};

// Rows from `first` on that are keys, of which the first has this number; queries that see them are in `ranges`.
struct KeyTile {
    unsigned first, count, number, ranges, ranges_end;
};

// Queries of one sequence, of which the first has this number.
struct QueryRange {
    unsigned first, end, number;
};

DEVICE unsigned number_of_first(const QueryTile &tile) { return tile.shared_len + tile.first - tile.own; }

// The row of a key.
DEVICE unsigned row_of_key(const QueryTile &tile, unsigned key) {
    return key + (key < tile.shared_len ? tile.shared : tile.own - tile.shared_len);
}

// Whether a query sees a key. No window is one of all keys. What is behind the query is very far before it, without signs.
DEVICE bool sees(unsigned query, unsigned key, unsigned window) { return query - key < window; }

// The first key that a query sees.
DEVICE unsigned first_seen(unsigned query, unsigned window) { return query < window ? 0 : query + 1 - window; }

// What becomes of products q·k.
template <typename W> struct Scoring {
    // cap 0 is none; inverse_cap is 1 / cap.
    W scale, cap, inverse_cap;
};

// A score, within [-cap, cap].
template <typename W> DEVICE W score_of(const Scoring<W> &scoring, W product) {
    W score = scoring.scale * product;
    return scoring.cap > 0 ? scoring.cap * hyperbolic_tangent(score * scoring.inverse_cap) : score;
}

// The derivative of a score with respect to what it was before the cap.
template <typename W> DEVICE W slope_of(const Scoring<W> &scoring, W score) {
    W part = score * scoring.inverse_cap;
    return scoring.cap > 0 ? 1 - part * part : 1;
}
