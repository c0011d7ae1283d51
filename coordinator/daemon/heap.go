package daemon

// heapFloor, in bytes, is allocated and never touched, so it takes address
// space and no memory. Garbage is collected when the heap has doubled: with the
// floor an idle coordinator, which holds a few megabytes, collects after 2 *
// heapFloor of work instead of after every few activations.
const heapFloor = 16 << 20
