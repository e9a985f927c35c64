package nix

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/mvmctl/mvmctl/internal/machine"
)

// Options say which flake to use, and how.
type Options struct {
	Flake   string // a flake reference, or a folder; "REF#NAME" is REF with the profile NAME
	Profile string // the package to build: packages.SYSTEM.PROFILE; "" is "default"
	System  string // the guest's; "" is Linux on this host's processor
	Offline bool   // use only what is here

	// Inputs override inputs of the flake: name → flake reference. Nix then writes no lock.
	Inputs map[string]string
	// OutLink, a path, keeps the result from Nix's garbage collector as long as it exists.
	OutLink string
	Args    []string // further arguments for nix, before the flake

	Progress func(Event) // hears of progress; may be nil. Calls come one after the other.
	Program  string      // "" is nix of PATH

	// Linux is where nix runs instead of on this host; Fetched, a folder, is for what it builds then.
	Linux   Linux
	Fetched string
}

// Result is a built guest.
type Result struct {
	OutPath   string // in the Nix store
	DrvPath   string
	StoreHash string // the hash part of OutPath: equal inputs have equal hashes
	RootfsTar string // the root file system, a tar archive
	ImageJSON string // the image's configuration
	Name      string // of the guest
	System    string // "x86_64-linux"; "" when the package does not say
}

// What a guest's store path holds (nix/lib/rootfs.nix).
const (
	rootfsFile = "rootfs.tar"
	imageFile  = "image.json"
	guestFile  = "guest.json"
	maxSmall   = 1 << 20
)

// Build builds a guest. When ctx ends, nix and what it started end too.
func Build(ctx context.Context, o Options) (Result, error) {
	t, err := o.target()
	if err != nil {
		return Result{}, err
	}
	link := []string{"--no-link"}
	if o.OutLink != "" && o.Linux == nil { // a link here holds nothing there
		link = []string{"--out-link", o.OutLink}
	}
	args := slices.Concat([]string{"build", "--json"}, link, o.flags(), []string{t.installable()})
	out, err := run(ctx, o, args)
	if err != nil {
		return Result{}, t.explain(ctx, o, err)
	}
	return readResult(ctx, o, out, t)
}

// Evaluate says what Build would give, without building: OutPath, DrvPath, StoreHash and the name.
func Evaluate(ctx context.Context, o Options) (Result, error) {
	t, err := o.target()
	if err != nil {
		return Result{}, err
	}
	args := slices.Concat([]string{"eval", "--json", "--apply", "p: { out = p.outPath; drv = p.drvPath; }"}, o.flags(), []string{t.installable()})
	out, err := run(ctx, o, args)
	if err != nil {
		return Result{}, t.explain(ctx, o, err)
	}
	var p struct{ Out, Drv string } // a set with outPath would be printed as a string
	if err := json.Unmarshal(out, &p); err != nil || !filepath.IsAbs(p.Out) {
		return Result{}, machine.Errorf("nix.protocol", "run `"+t.byHand("eval", "--json", t.installable()+".outPath")+"` by hand; this mvmctl was made for Nix 2.8 and later",
			"nix eval said something that mvmctl does not understand: %s", clip(clean(string(out)), 200))
	}
	r := pathsOf(p.Out, p.Drv)
	r.Name, r.System = strings.TrimSuffix(derivationName(r.OutPath), "-image"), t.system
	return r, nil
}

func pathsOf(out, drv string) Result {
	r := Result{DrvPath: drv, OutPath: filepath.Clean(out)}
	r.StoreHash, _, _ = strings.Cut(filepath.Base(r.OutPath), "-")
	r.RootfsTar, r.ImageJSON = filepath.Join(r.OutPath, rootfsFile), filepath.Join(r.OutPath, imageFile)
	return r
}

// target is what a command is about, with every question answered.
type target struct {
	ref     string // for nix
	shown   string // as the user gave it
	system  string
	profile string
	attr    string   // an attribute path of the user's own, instead of profile
	local   string   // the folder, when it is one
	flags   []string // that nix was given about the flake
}

// installable returns how nix names the package.
func (t target) installable() string {
	if t.attr != "" {
		return t.ref + "#" + t.attr
	}
	return t.ref + "#packages." + t.system + "." + t.profile
}

// target checks the options.
func (o Options) target() (target, error) {
	const remedy = "give a folder with a flake.nix, or a reference such as github:OWNER/REPO or git+https://HOST/REPO"
	ref, fragment, hasFragment := strings.Cut(o.Flake, "#")
	bad := func(why string) error {
		return machine.Usagef("input.flake", remedy, "%q is not a flake reference: %s", clip(o.Flake, 80), why)
	}
	switch {
	case ref == "" && !hasFragment:
		return target{}, bad("it is empty")
	case strings.HasPrefix(ref, "-"):
		return target{}, bad("it begins with '-'")
	case strings.ContainsFunc(o.Flake, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return target{}, bad("it has control characters")
	case hasFragment && fragment != "" && o.Profile != "":
		return target{}, machine.Usagef("input.flake", "leave out one of the two",
			"the flake reference names a package (%s) and --profile another (%s)", clip(fragment, 80), clip(o.Profile, 80))
	}
	t := target{ref: ref, shown: o.Flake, system: o.System, profile: o.Profile, flags: o.flags()}
	if ref == "" {
		t.ref = "."
	}
	if t.system == "" {
		t.system = hostSystem()
	}
	switch {
	case strings.Contains(fragment, "."):
		t.attr = fragment
	case fragment != "":
		t.profile = fragment
	case t.profile == "":
		t.profile = "default"
	}
	if !plainName(t.profile) && t.attr == "" {
		return target{}, machine.Usagef("input.profile", "use letters, digits, '-' and '_', as in packages."+t.system+".NAME of the flake",
			"%q is not the name of a package of a flake", clip(t.profile, 80))
	}
	// A folder, also one that nix would take for the name of a registry entry: "examples/web".
	if info, err := os.Stat(t.ref); err == nil && info.IsDir() {
		dir, err := filepath.Abs(t.ref)
		if err != nil {
			return target{}, fmt.Errorf("finding %s: %w", t.ref, err)
		}
		if strings.ContainsAny(dir, "?#") {
			return target{}, bad("nix cannot take a folder with '?' or '#' in its path")
		}
		t.local, t.ref = dir, dir
	}
	return t, nil
}

func plainName(s string) bool {
	return s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") == "" && s[0] != '-'
}

// hostSystem returns Nix's name for Linux on this host's processor.
func hostSystem() string {
	if runtime.GOARCH == "arm64" {
		return "aarch64-linux"
	}
	return "x86_64-linux"
}

// flags returns what all commands that evaluate a flake have in common.
func (o Options) flags() []string {
	var out []string
	if o.Offline {
		out = append(out, "--offline")
	}
	names := make([]string, 0, len(o.Inputs))
	for n := range o.Inputs {
		names = append(names, n)
	}
	slices.Sort(names)
	for _, n := range names {
		out = append(out, "--override-input", n, o.Inputs[n])
	}
	return append(out, o.Args...)
}

// readResult reads what nix build --json printed and looks at what was built.
func readResult(ctx context.Context, o Options, out []byte, t target) (Result, error) {
	r, err := parseBuilt(out, t)
	if err != nil {
		return Result{}, err
	}
	if o.Linux != nil {
		if r, err = fetch(ctx, o.Linux, r, o.Fetched); err != nil {
			return Result{}, err
		}
	}
	for _, p := range []string{r.RootfsTar, r.ImageJSON} {
		// No links: a package must not make us read other files of the host.
		info, err := os.Lstat(p)
		if errors.Is(err, fs.ErrNotExist) || err == nil && !info.Mode().IsRegular() {
			return Result{}, machine.Errorf("nix.output", "make it with mvm.lib.mkGuest (docs/nix.md); mvmctl template init shows how",
				"%s is not a guest: %s has no file %s", t.installable(), r.OutPath, filepath.Base(p))
		}
		if err != nil {
			return Result{}, fmt.Errorf("looking at what nix built: %w", err)
		}
	}
	var about struct{ Name, System string }
	if data, err := readSmall(filepath.Join(filepath.Dir(r.ImageJSON), guestFile)); err == nil && json.Unmarshal(data, &about) == nil {
		r.Name, r.System = clip(clean(about.Name), 80), clip(clean(about.System), 80)
	}
	if r.System != "" && r.System != t.system {
		return Result{}, machine.Errorf("nix.system", "build packages."+t.system+" of the flake with pkgs for "+t.system,
			"%s is a guest for %s, and this host runs %s", t.installable(), r.System, t.system)
	}
	return r, nil
}

// readSmall reads a regular file of at most maxSmall bytes.
func readSmall(name string) ([]byte, error) {
	info, err := os.Lstat(name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxSmall {
		return nil, fmt.Errorf("%s is no small regular file", name)
	}
	return os.ReadFile(name)
}

// parseBuilt reads what nix build --json printed of one package.
func parseBuilt(out []byte, t target) (Result, error) {
	var built []struct {
		DrvPath string            `json:"drvPath"`
		Outputs map[string]string `json:"outputs"`
	}
	if err := json.Unmarshal(out, &built); err != nil || len(built) != 1 || !filepath.IsAbs(built[0].Outputs["out"]) {
		return Result{}, t.misunderstood("build", out)
	}
	return pathsOf(built[0].Outputs["out"], built[0].DrvPath), nil
}

// misunderstood is the error for output of nix's that is not what it should be.
func (t target) misunderstood(verb string, out []byte) error {
	return machine.Errorf("nix.protocol", "run `"+t.byHand(verb, "--json", t.installable())+"` by hand; this mvmctl was made for Nix 2.8 and later",
		"nix %s said something that mvmctl does not understand: %s", verb, clip(clean(string(out)), 200))
}
