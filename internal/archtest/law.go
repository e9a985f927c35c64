package archtest

import "slices"

// Side says on which side of the guest boundary a package lives.
type side string

const (
	sideWords side = "words" // vocabulary that crosses the boundary
	sideHost  side = "host"
	sideGuest side = "guest"
	sideTop   side = "top" // programs, end-to-end tests and tools: they may import their whole side
)

// row is one package of the import table: its place and what of ours its non-test files may
// import. A test file may import anything.
type row struct {
	side  side
	layer int // imports go down or stay level, never up
	may   []string
}

// table is the import law of docs/architecture.md, section "Who may import whom". Keys are
// folders relative to the module; those below internal are written without the prefix. Rows
// of planned packages stand here already, so that the first file of a new package is right.
func table() map[string]row {
	host := func(layer int, may ...string) row { return row{sideHost, layer, may} }
	guest := func(layer int, may ...string) row { return row{sideGuest, layer, may} }

	backend := host(3, "driver", "machine", "vsock", "jailer", "disk", "process", "vmm", "fault")

	return map[string]row{
		// 0 words
		"machine":    host(0),
		"agentproto": {sideWords, 0, nil},

		// 1 tools
		"paths":       host(1, "machine"),
		"vsock":       {sideWords, 1, nil},
		"disk":        host(1),
		"forward":     host(1),
		"egress":      host(1),
		"proxy":       host(1, "egress"),
		"usernet":     host(1, "proxy"),
		"mirrors":     host(1),
		"secret":      host(1),
		"audit":       host(1),
		"trust":       host(1),
		"fault":       host(1),
		"flock":       host(1),
		"nix-flake":   host(1),
		"guest":       host(1),
		"network":     host(1, "machine"),
		"jailer":      host(1, "machine"),
		"control":     host(1, "machine"),
		"process":     host(1, "machine"),
		"linuxenv":    host(1, "machine", "flock"),
		"agentclient": host(1, "agentproto"),
		"layer":       host(1, "machine", "disk"),

		// 2 state
		"store":    host(2, "machine", "paths", "fault"),
		"image":    host(2, "machine", "agentproto", "paths", "trust", "disk", "flock", "fault"),
		"kernel":   host(2, "machine", "paths", "trust", "disk", "flock", "guest"),
		"oci":      host(2, "machine", "paths", "flock", "fault"),
		"catalog":  host(2, "machine"),
		"nix":      host(2, "machine", "paths", "nix-flake", "linuxenv"),
		"volume":   host(2, "machine", "paths", "disk", "flock"),
		"initrd":   host(2, "machine", "paths", "trust", "disk", "kernel"),
		"agentbin": host(2, "machine", "paths"),

		// 3 backends: they see the contract and what they need to start a VMM, never each other
		"driver":             host(3, "machine"),
		"vmm":                host(3, "driver", "machine", "process"),
		"driver/qemu":        backend,
		"driver/fake":        backend,
		"driver/firecracker": backend,
		"driver/vz":          backend,
		"driver/krun":        host(3, slices.Concat(backend.may, []string{"driver/krun/wire"})...),
		"driver/krun/wire":   host(1),
		"driver/docker":      host(3, "driver", "machine", "agentproto", "disk", "layer", "process", "fault"),
		"driver/lima":        host(3, "driver", "machine", "linuxenv", "vmm", "disk", "layer", "flock", "fault"),
		"driver/drivertest": host(3, "driver", "machine", "disk", "process", "fault", "vsock",
			"paths", "image", "kernel", "initrd", "agentbin", "agentproto", "agentclient"),

		// 4 work
		"build": host(4, "machine", "agentproto", "paths", "disk", "image", "layer", "oci", "nix", "trust", "flock", "fault"),
		"supervisor": host(4, "machine", "paths", "driver", "control", "agentclient", "agentproto",
			"forward", "process", "network", "audit", "fault"),
		"engine": host(4, "machine", "paths", "flock", "image", "layer", "volume", "kernel", "initrd", "agentbin", "disk", "secret",
			"driver", "agentclient", "agentproto", "process", "audit", "fault"),
		"doctor": host(4),

		// 5 face
		"config": host(5),
		"ui":     host(5),
		"cli":    host(5, "machine", "agentproto", "engine", "build", "catalog", "doctor", "config", "ui"),

		// guest: the agent and its parts. Host and guest share bytes (agentproto), not code.
		"guestproc": guest(1, "agentproto"),
		"userland":  guest(1),
		"guestinit": guest(2, "agentproto", "guestproc"),
		"service":   guest(2, "agentproto", "guestproc"),
		"agent":     guest(3, "agentproto", "vsock", "guestproc", "guestinit", "service", "userland"),

		// this package
		"archtest": host(1),

		// another host, for the tests of e2e
		"e2e/kvmhost":      host(2, "e2e/kvmhost/wire", "disk", "layer"),
		"e2e/kvmhost/wire": {sideWords, 0, nil},
		"e2e/kvmhost/init": {sideTop, 9, []string{"e2e/kvmhost/wire"}},

		// top
		"cmd/mvmctl":       {sideTop, 9, allOn(sideHost)},
		"cmd/mvm-agent":    {sideTop, 9, allOn(sideGuest)},
		"cmd/mvm-krun":     {sideTop, 9, []string{"driver/krun/wire"}},
		"e2e":              {sideTop, 9, allOn(sideHost)},
		"bench":            {sideTop, 9, allOn(sideHost)},
		"scripts/testsum":  {sideTop, 9, nil},
		"scripts/backends": {sideTop, 9, []string{"driver/drivertest"}},
	}
}

// allOn marks "every package of that side, and the words"; see mayImport.
func allOn(s side) []string { return []string{"*" + string(s)} }

// mayImport reports whether a row lets its package import target (a key of the table).
func mayImport(r row, target string, to row) bool {
	if r.side == sideTop && slices.Contains(r.may, target) {
		return true // a program that draws what the suite said
	}
	if to.side == sideTop || target == "driver/drivertest" || target == "archtest" {
		return false // programs are not importable; the suites are for test files only
	}
	if slices.Contains(r.may, "*"+string(sideHost)) {
		return to.side == sideHost || to.side == sideWords
	}
	if slices.Contains(r.may, "*"+string(sideGuest)) {
		return to.side == sideGuest || to.side == sideWords
	}
	return slices.Contains(r.may, target)
}

// bannedPackageNames say where code came from, not what it is; a helper lives with its one
// caller or earns a real name.
func bannedPackageNames() []string {
	return []string{
		"util", "utils", "common", "types", "helper", "helpers", "shared", "define", "misc",
		"base", "lib", "pkg", "core", "models", "model", "ports", "steps", "interfaces", "constants",
	}
}

// bannedImports maps an import path (or, with a trailing slash, everything below it) to the
// reason. They are banned from non-test files of the given side, or from all when side is "".
func bannedImports() []importBan {
	return []importBan{
		{"net/http/pprof", "", "it registers handlers on a global mux from init; profile in tests"},
		{"expvar", "", "it registers handlers on a global mux from init"},
		{"plugin", "", "it needs cgo; all our builds have CGO_ENABLED=0"},
		{"C", "", "all our builds have CGO_ENABLED=0"},
		{"github.com/ebitengine/purego", sideHost, "who imports it is linked dynamically, and mvmctl is not; only cmd/mvm-krun is"},
		{"github.com/ebitengine/purego", sideGuest, "the agent is the first program of a guest and finds no loader there"},
		{"github.com/spf13/cobra", sideGuest, "the agent has no command line to speak of and must stay small"},
		{"github.com/pelletier/", sideGuest, "the guest is configured by the JSON on its config drive"},
	}
}

type importBan struct {
	path   string
	side   side
	reason string
}

// backendWords are the names of backends: generic code that needs one has a switch which
// belongs behind the driver contract.
func backendWords() []string {
	return []string{"firecracker", "qemu", "vz", "vfkit", "krun", "libkrun", "lima", "limactl", "docker", "dockerd"}
}

// backendTextAllowed lists the packages whose *string literals* (never identifiers) may name
// a backend, because they talk to people about programs to install.
func backendTextAllowed() map[string]string {
	return map[string]string{
		"cli":    "flag help and examples",
		"doctor": "what to install and how",
		"image":  "names of images begin with a registry's host",
		"nix":    "what nix says and what to install",
		"build":  "the tools that build Dockerfiles, and what they call an image",
		"oci":    "sources are named as the programs that made them are, and remedies name those",
	}
}

// exitAllowed lists the files below main that may end the process, with the reason.
func exitAllowed() map[string]string {
	return map[string]string{
		"internal/guestinit/power_linux.go": "PID 1 of a guest whose power-off the kernel refused: its end resets the machine",
	}
}
