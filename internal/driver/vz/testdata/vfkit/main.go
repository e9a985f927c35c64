// Command vfkit reads a command line by vfkit's own packages, as its main does, and prints what it
// means. TestCommandLinesByVfkitItself builds and runs it.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/crc-org/vfkit/pkg/cmdline"
	"github.com/crc-org/vfkit/pkg/config"
	"github.com/spf13/cobra"
)

func main() {
	opts := &cmdline.Options{}
	cmd := &cobra.Command{Use: "vfkit", SilenceUsage: true, SilenceErrors: true, RunE: func(*cobra.Command, []string) error { return read(opts) }}
	cmdline.AddFlags(cmd, opts)
	if err := cmd.Execute(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func read(opts *cmdline.Options) error {
	loader, err := config.BootloaderFromCmdLine(opts.Bootloader.GetSlice())
	if err != nil {
		return err
	}
	linux, ok := loader.(*config.LinuxBootloader)
	if !ok {
		return errors.New("not a Linux")
	}
	vm := config.NewVirtualMachine(opts.Vcpus, uint64(opts.MemoryMiB), loader)
	if err := vm.AddDevicesFromCmdLine(opts.Devices); err != nil {
		return err
	}
	out := map[string]any{
		"cpus": opts.Vcpus, "memory": opts.MemoryMiB, "api": opts.RestfulURI,
		"kernel": linux.VmlinuzPath, "initrd": linux.InitrdPath, "cmdline": linux.KernelCmdLine,
	}
	disks := []map[string]any{}
	for _, d := range vm.Devices {
		switch d := d.(type) {
		case *config.VirtioBlk:
			disks = append(disks, map[string]any{"path": d.ImagePath, "id": d.DeviceIdentifier, "readonly": d.ReadOnly})
		case *config.VirtioSerial:
			out["pty"] = d.UsesPty
		case *config.VirtioRng:
			out["rng"] = true
		case *config.VirtioBalloon:
			out["balloon"] = true
		case *config.VirtioVsock:
			out["port"], out["socket"], out["connect"] = d.Port, d.SocketURL, !d.Listen
		default:
			return fmt.Errorf("a device that was not asked for: %T", d)
		}
	}
	out["disks"] = disks
	return json.NewEncoder(os.Stdout).Encode(out)
}
