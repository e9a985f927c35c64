//go:build linux && (amd64 || arm64)

package main

import (
	"fmt"
	"syscall"

	"github.com/ebitengine/purego"

	"github.com/mvmctl/mvmctl/internal/driver/krun/wire"
)

// Values of constants in libkrun.h.
const (
	logToStderr = -1
	logWarn     = 2
	logPlain    = 2 // KRUN_LOG_STYLE_NEVER
	logNoEnv    = 1
	noTSI       = 0
)

// library is libkrun. Its functions are as libkrun.h declares them: they return a number, or a
// negative errno.
type library struct {
	initLog                func(fd int32, level, style, options uint32) int32
	createCtx              func() int32
	setVMConfig            func(ctx uint32, cpus uint8, memoryMiB uint32) int32
	setKernel              func(ctx uint32, kernel string, format uint32, initramfs, commandLine string) int32
	disableImplicitConsole func(ctx uint32) int32
	disableImplicitVsock   func(ctx uint32) int32
	addSerialConsole       func(ctx uint32, in, out int32) int32
	addDisk                func(ctx uint32, id, path string, readOnly bool) int32
	addVsock               func(ctx, tsi uint32) int32
	addVsockPort           func(ctx, port uint32, socket string, listen bool) int32
	startEnter             func(ctx uint32) int32
	getMaxVCPUs            func() int32
}

// load loads the library and finds all that is used of it.
func load(path string) (*library, error) {
	handle, err := purego.Dlopen(path, purego.RTLD_NOW|purego.RTLD_LOCAL)
	if err != nil {
		return nil, err
	}
	l := &library{}
	for name, function := range map[string]any{
		"krun_init_log":                   &l.initLog,
		"krun_create_ctx":                 &l.createCtx,
		"krun_set_vm_config":              &l.setVMConfig,
		"krun_set_kernel":                 &l.setKernel,
		"krun_disable_implicit_console":   &l.disableImplicitConsole,
		"krun_disable_implicit_vsock":     &l.disableImplicitVsock,
		"krun_add_serial_console_default": &l.addSerialConsole,
		"krun_add_disk":                   &l.addDisk,
		"krun_add_vsock":                  &l.addVsock,
		"krun_add_vsock_port2":            &l.addVsockPort,
		"krun_start_enter":                &l.startEnter,
		"krun_get_max_vcpus":              &l.getMaxVCPUs,
	} {
		symbol, err := purego.Dlsym(handle, name)
		if err != nil {
			return nil, fmt.Errorf("%s %s %s", path, wire.LacksFunction, name)
		}
		purego.RegisterFunc(function, symbol)
	}
	return l, nil
}

// answer turns what a function returned into a number or an error.
func (l *library) answer(call string, result int32) (uint32, error) {
	if result < 0 {
		return 0, fmt.Errorf("%s: %w", call, syscall.Errno(-result))
	}
	return uint32(result), nil
}

func (l *library) say(call string, result int32) error {
	_, err := l.answer(call, result)
	return err
}
