package main

import (
	"context"
	"log/slog"
	"os"

	"github.com/mvmctl/mvmctl/internal/driver"
	"github.com/mvmctl/mvmctl/internal/driver/vz"
	"github.com/mvmctl/mvmctl/internal/paths"
	"github.com/mvmctl/mvmctl/internal/vmm"
)

// withApple adds the driver for Apple's Virtualization.framework: before all others where it is at
// its best, else last.
func withApple(list []driver.Driver, p paths.Paths, probe func(context.Context) (vmm.ProbeAssets, error), log *slog.Logger) []driver.Driver {
	apple := vz.New(vz.Options{CacheDir: p.Cache, Binary: os.Getenv("MVM_VFKIT"), Log: log, BootProbe: probe})
	if vz.Preferred() {
		return append([]driver.Driver{apple}, list...)
	}
	return append(list, apple)
}

// aliases are further names of backends.
func aliases() map[string]string { return map[string]string{vz.Alias: vz.Name} }

// foreign names the backends that other systems have.
func foreign() map[string]string { return nil }
