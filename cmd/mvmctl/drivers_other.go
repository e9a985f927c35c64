//go:build !darwin

package main

import (
	"context"
	"log/slog"

	"github.com/mvmctl/mvmctl/internal/driver"
	"github.com/mvmctl/mvmctl/internal/driver/vz"
	"github.com/mvmctl/mvmctl/internal/paths"
	"github.com/mvmctl/mvmctl/internal/vmm"
)

// withApple adds the driver for Apple's Virtualization.framework, which only macOS has.
func withApple(list []driver.Driver, _ paths.Paths, _ func(context.Context) (vmm.ProbeAssets, error), _ *slog.Logger) []driver.Driver {
	return list
}

// aliases are further names of backends.
func aliases() map[string]string { return nil }

// foreign names the backends that other systems have.
func foreign() map[string]string { return map[string]string{vz.Name: "macOS", vz.Alias: "macOS"} }
