package qemu

import "github.com/mvmctl/mvmctl/internal/vmm"

// remembered is what is kept across processes. Each part names what it is true for.
type remembered struct {
	Binary *binary    `json:"binary,omitempty"`
	Probe  *vmm.Trial `json:"probe,omitempty"`
	TSC    *tscResult `json:"tsc,omitempty"`
}

// tscResult is the measured frequency of the cycle counter; 0 when it is not constant.
type tscResult struct {
	BootID string `json:"boot_id"`
	KHz    int    `json:"khz"`
}
