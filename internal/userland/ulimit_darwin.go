package userland

// rlimShift makes RLIM_INFINITY of the all-ones value: it is 2^63-1 on Darwin.
const rlimShift = 1
