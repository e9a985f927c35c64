package engine

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"time"

	"github.com/mvmctl/mvmctl/internal/agentproto"
	"github.com/mvmctl/mvmctl/internal/disk"
	"github.com/mvmctl/mvmctl/internal/driver"
	"github.com/mvmctl/mvmctl/internal/image"
	"github.com/mvmctl/mvmctl/internal/initrd"
	"github.com/mvmctl/mvmctl/internal/kernel"
	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/paths"
)

// assets are the shared, cached things that a machine boots from.
type assets struct {
	image  image.Image
	kernel machine.Kernel // zero when the driver boots none
	initrd string
	agent  string
}

// prepareAssets finds or makes image, kernel, initramfs and agent. All of it is cached: the
// second time it costs some file look-ups.
func (e *Engine) prepareAssets(ctx context.Context, rec machine.Record, caps driver.Capabilities, progress func(Progress)) (assets, error) {
	var a assets
	var err error
	if rec.Spec.Runner != "" {
		return a, e.prepareRunner(ctx, rec)
	}
	if a.image, err = e.imageOf(ctx, rec); err != nil {
		return assets{}, err
	}
	agent, digest, err := e.Agent(ctx)
	if err != nil {
		return assets{}, err
	}
	a.agent = agent
	if !caps.NeedsKernel {
		return a, nil
	}
	k, err := e.findKernel(ctx, cmp.Or(rec.Spec.Kernel, a.image.Content.Config.Kernel), rec.Driver, progress)
	if err != nil {
		return assets{}, err
	}
	a.kernel = bootKernel(k)
	a.initrd, err = buildInitrd(ctx, e.Paths.Cache, k, agent, digest)
	return a, err
}

// imageOf returns the image of a machine: the very one it was first started from, wherever its
// name points today, since the machine's own disk only has what differs from that one.
func (e *Engine) imageOf(ctx context.Context, rec machine.Record) (image.Image, error) {
	if rec.ImageID == "" {
		return e.ImageStore.Ensure(ctx, rec.Spec.Image)
	}
	img, err := e.ImageStore.Open(rec.ImageID)
	if machine.CodeOf(err) != "image.gone" {
		return img, err
	}
	// What is made again from the same source is the same image.
	if img, again := e.ImageStore.Ensure(ctx, rec.Spec.Image); again == nil && img.ID == rec.ImageID {
		return img, nil
	}
	return image.Image{}, machine.Errorf("image.gone", fmt.Sprintf("get the same image of %s again, or delete the machine: mvmctl rm %s", rec.Spec.Image, rec.Name),
		"the image that machine %q was made from is not in the store any more: %w", rec.Name, err)
}

// findKernel finds the kernel that was asked for, or the default one for that backend. The default one
// is downloaded when there is none, with progress; that happens once.
func (e *Engine) findKernel(ctx context.Context, want, backend string, progress func(Progress)) (kernel.Kernel, error) {
	if want != "" {
		return e.KernelStore.Find(ctx, want)
	}
	have, err := e.KernelStore.List(ctx)
	if err != nil {
		return kernel.Kernel{}, err
	}
	if len(have) == 0 && progress != nil {
		progress(Progress{Step: "getting a guest kernel (once)"})
	}
	for _, d := range e.Drivers {
		if c, ok := d.(driver.KernelChecker); ok && d.Name() == backend {
			return e.defaultKernel(ctx, c)
		}
	}
	return e.defaultKernel(ctx, nil)
}

// defaultKernel returns the default kernel. For a driver that cannot boot it that is the newest one in
// the cache which it can.
func (p Parts) defaultKernel(ctx context.Context, c driver.KernelChecker) (kernel.Kernel, error) {
	k, err := p.KernelStore.Find(ctx, "")
	if err != nil || c == nil {
		return k, err
	}
	unsuitable := c.SuitsKernel(bootKernel(k))
	if unsuitable == nil {
		return k, nil
	}
	all, err := p.KernelStore.List(ctx)
	if err != nil {
		return kernel.Kernel{}, err
	}
	for _, other := range all {
		if other.Arch == k.Arch && c.SuitsKernel(bootKernel(other)) == nil {
			return p.KernelStore.Find(ctx, other.ID)
		}
	}
	return kernel.Kernel{}, unsuitable
}

func bootKernel(k kernel.Kernel) machine.Kernel {
	mk := machine.Kernel{ID: k.ID, Release: k.Release, BzImage: k.BzImage}
	if k.PVH || k.Arch == "arm64" { // an Image is entered at its beginning, and every VMM takes it plain
		mk.VMLinux = k.VMLinux
	}
	return mk
}

func buildInitrd(ctx context.Context, cache string, k kernel.Kernel, agent, digest string) (string, error) {
	var modules []string
	if k.Modules != "" {
		var err error
		// A module that this kernel does not have may not be needed: if it is, the boot says so.
		missing := new(kernel.MissingModulesError)
		if modules, err = k.ModuleFiles(kernel.WantedModules()); err != nil && !errors.As(err, &missing) {
			return "", err
		}
	}
	return initrd.Build(ctx, cache, initrd.Input{Agent: agent, AgentDigest: digest, KernelID: k.ID, Modules: modules})
}

// keys are one generation's keys of the channel.
type keys struct {
	hostSeed, guestSeed []byte
	hostPub, guestPub   []byte
	random              []byte
}

func newKeys() (keys, error) {
	var k keys
	hostPub, host, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return keys{}, fmt.Errorf("making keys: %w", err)
	}
	guestPub, guest, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return keys{}, fmt.Errorf("making keys: %w", err)
	}
	k.hostSeed, k.guestSeed = host.Seed(), guest.Seed()
	k.hostPub, k.guestPub = hostPub, guestPub
	k.random = make([]byte, 64)
	rand.Read(k.random) // never fails since Go 1.24
	return k, nil
}

// makeDrives makes the machine's own disks: the sparse upper disk once, the config drive anew
// for each generation. It returns all disks in attach order.
func (e *Engine) makeDrives(ctx context.Context, rec machine.Record, p paths.Machine, a assets, k keys) ([]machine.Disk, error) {
	if rec.Spec.Runner != "" {
		config := machine.Disk{Role: machine.RoleConfig, Path: p.ConfigDrive(), ReadOnly: true}
		return []machine.Disk{config}, makeConfig(guestConfig(rec, a.image, k), p)
	}
	if _, err := os.Lstat(p.Upper()); errors.Is(err, fs.ErrNotExist) {
		size := rec.Spec.Disk &^ 4095
		if err := disk.CreateEmpty(p.Upper(), disk.Options{Size: size, Label: "mvm-upper", Journal: true}); err != nil {
			return nil, paths.WriteError("making the machine's disk", err)
		}
	}
	volumes, mounts, err := e.attachVolumes(ctx, rec)
	if err != nil {
		return nil, err
	}
	guest := guestConfig(rec, a.image, k)
	guest.Mounts = mounts
	if err := makeConfig(guest, p); err != nil {
		return nil, err
	}
	return append([]machine.Disk{
		{Role: machine.RoleRoot, Path: a.image.Path, ReadOnly: true, ID: a.image.ID},
		{Role: machine.RoleUpper, Path: p.Upper()},
		{Role: machine.RoleConfig, Path: p.ConfigDrive(), ReadOnly: true},
	}, volumes...), nil
}

// makeConfig makes the config drive.
func makeConfig(guest agentproto.Config, p paths.Machine) error {
	config, err := json.Marshal(guest)
	if err != nil {
		return fmt.Errorf("encoding the guest's configuration: %w", err)
	}
	err = disk.CreateDrive(p.ConfigDrive(), "mvm-config", 0, []disk.File{{Path: agentproto.ConfigFile, Mode: 0o400, Data: config}})
	return paths.WriteError("making the config drive", err)
}

// guestConfig is what the config drive says.
func guestConfig(rec machine.Record, img image.Image, k keys) agentproto.Config {
	spec := rec.Spec
	c := agentproto.Config{
		Protocol: agentproto.Version, MachineID: rec.ID, Name: rec.Name, Hostname: rec.Name, Generation: rec.Generation,
		GuestSeed: k.guestSeed, HostKey: k.hostPub, Random: k.random,
		Env: map[string]string{}, Access: agentproto.AllAccess(),
	}
	if spec.Sealed {
		c.Access = agentproto.Access{}
	}
	have := img.Content.Config
	if have.Access != nil && !spec.Sealed {
		c.Access = *have.Access
	}
	maps.Copy(c.Env, have.Env)
	maps.Copy(c.Env, spec.Env)
	c.Hostname = cmp.Or(have.Hostname, rec.Name)
	c.Users = have.Users
	c.Services, c.Checks = servicesOf(have, spec)
	if spec.Init != "" {
		c.Main = &agentproto.Main{
			Process: agentproto.Process{Args: []string{spec.Init}}, Init: true,
			Attach: spec.Attach, TTY: spec.TTY,
		}
	} else if command := have.Args(spec.Command); len(command) > 0 {
		c.Main = &agentproto.Main{
			Process: agentproto.Process{Args: command, Dir: cmp.Or(spec.Dir, have.Dir), User: cmp.Or(spec.User, have.User)},
			Attach:  spec.Attach, TTY: spec.TTY, StopSignal: have.StopSignal, MakeDir: spec.Dir == "" && have.Dir != "",
		}
	}
	return c
}

// bootOf answers every question of a start.
func bootOf(rec machine.Record, p paths.Machine, a assets, disks []machine.Disk) machine.Boot {
	return machine.Boot{
		Name: rec.Name, ID: rec.ID, Generation: rec.Generation, Driver: rec.Driver,
		CPUs: rec.Spec.CPUs, MemoryBytes: rec.Spec.Memory,
		Kernel: a.kernel, Initrd: a.initrd, Agent: a.agent, Disks: disks, Runner: rec.Spec.Runner,
		Dir: p.Dir, RuntimeDir: p.Runtime, Timeout: rec.Spec.Timeout,
	}
}

// saveBoot leaves the answers for people and for inspect. Nothing is decided by the file.
func saveBoot(path string, b machine.Boot) error {
	data, err := json.MarshalIndent(b, "", "  ")
	if err != nil {
		return fmt.Errorf("encoding boot: %w", err)
	}
	return paths.WriteError("writing "+path, os.WriteFile(path, append(data, '\n'), 0o600))
}

// stopwatch times the phases of a verb.
type stopwatch struct {
	last   time.Time
	phases []machine.Phase
	report func(Progress)
}

func newStopwatch(report func(Progress)) *stopwatch {
	return &stopwatch{last: time.Now(), report: report}
}

// lap ends the current phase.
func (s *stopwatch) lap(name string) {
	now := time.Now()
	s.add(machine.Phase{Name: name, Duration: now.Sub(s.last)})
}

func (s *stopwatch) add(p machine.Phase) {
	s.last = time.Now()
	s.phases = append(s.phases, p)
	if s.report != nil {
		s.report(Progress{Step: p.Name, Done: true, Duration: p.Duration})
	}
}

// begin says what is being done now.
func (s *stopwatch) begin(step string) {
	if s.report != nil {
		s.report(Progress{Step: step})
	}
}
