package kernel

import (
	"context"
	"os/exec"
	"runtime"
	"slices"
	"strings"

	"github.com/mvmctl/mvmctl/internal/machine"
)

// tool is a program that building a kernel runs, and the Debian package that has it.
type tool struct{ program, pkg string }

// toolchain is what a build uses.
type toolchain struct {
	cross    string // prefix of the compiler's and linker's names
	compiler string // first line of its --version
	linker   string
}

// crossPrefix begins the names of the tools that make programs for arch.
func crossPrefix(arch string) string {
	if arch == runtime.GOARCH {
		return ""
	}
	if arch == "arm64" {
		return "aarch64-linux-gnu-"
	}
	return machineName(arch) + "-linux-gnu-"
}

// buildTools are the programs for a build, the compiler and the linker first.
func buildTools(arch string) []tool {
	prefix := crossPrefix(arch)
	compiler, linker := tool{prefix + "gcc", "gcc"}, tool{prefix + "ld", "binutils"}
	if prefix != "" {
		suffix := "-" + strings.ReplaceAll(strings.TrimSuffix(prefix, "-"), "_", "-")
		compiler.pkg += suffix
		linker.pkg += suffix
	}
	list := []tool{
		compiler, linker,
		{"make", "make"},
		{"gcc", "gcc"}, // for programs of the build itself
		{"flex", "flex"},
		{"bison", "bison"},
		{"bc", "bc"},
		{"perl", "perl"},
		{"awk", "mawk"},
	}
	if arch == "amd64" {
		list = append(list, tool{"lz4", "lz4"})
	}
	return list
}

// findTools checks that everything a build needs is here. All that is missing is one error, so
// that nobody installs one after the other.
func findTools(ctx context.Context, arch string) (toolchain, error) {
	if runtime.GOOS != "linux" {
		return toolchain{}, machine.Errorf("kernel.tools", "build it on a Linux machine and give it with --kernel PATH; `mvmctl kernel fetch` needs none",
			"kernels are built on Linux, not on %s", runtime.GOOS)
	}
	var names, packages []string
	lack := func(name, pkg string) {
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
		if !slices.Contains(packages, pkg) {
			packages = append(packages, pkg)
		}
	}
	list := buildTools(arch)
	for _, t := range list {
		if _, err := exec.LookPath(t.program); err != nil {
			lack(t.program, t.pkg)
		}
	}
	// objtool, which checks the code of x86 kernels while they are built, reads ELF files.
	if arch == "amd64" && !hasHeader(ctx, "gelf.h") {
		lack("gelf.h", "libelf-dev")
	}
	// A compiler alone is not enough for the programs of the build itself.
	if !hasHeader(ctx, "stdio.h") {
		lack("stdio.h", "libc6-dev")
	}
	if ctx.Err() != nil {
		return toolchain{}, ctx.Err()
	}
	if len(names) > 0 {
		return toolchain{}, machine.Errorf("kernel.tools",
			"apt-get install -y --no-install-recommends "+strings.Join(packages, " ")+" (as root; elsewhere, the packages that have these)",
			"building a kernel for %s needs what is not installed: %s", arch, strings.Join(names, ", "))
	}
	compiler, err := versionOf(ctx, list[0].program)
	if err != nil {
		return toolchain{}, err
	}
	linker, err := versionOf(ctx, list[1].program)
	if err != nil {
		return toolchain{}, err
	}
	return toolchain{cross: crossPrefix(arch), compiler: compiler, linker: linker}, nil
}

// hasHeader asks the compiler, which alone knows where it looks. Without one, the usual place
// has to do.
func hasHeader(ctx context.Context, header string) bool {
	gcc, err := exec.LookPath("gcc")
	if err != nil {
		return existing("/usr/include/"+header) != ""
	}
	cmd := exec.CommandContext(ctx, gcc, "-x", "c", "-fsyntax-only", "-include", header, "/dev/null")
	cmd.Env = buildEnv()
	return cmd.Run() == nil
}

// versionOf returns the first line of what a tool says of itself.
func versionOf(ctx context.Context, program string) (string, error) {
	cmd := exec.CommandContext(ctx, program, "--version")
	cmd.Env = buildEnv()
	out, err := cmd.Output()
	first, _, _ := strings.Cut(string(out), "\n")
	if first = strings.TrimSpace(first); err != nil || first == "" || len(first) > 200 {
		if ctx.Err() != nil {
			return "", ctx.Err()
		}
		return "", machine.Errorf("kernel.tools", "run `"+program+" --version` to see what is wrong with it", "%s does not say its version: %w", program, err)
	}
	return first, nil
}
