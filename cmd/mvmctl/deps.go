package main

import (
	"context"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/mvmctl/mvmctl/internal/build"
	"github.com/mvmctl/mvmctl/internal/catalog"
	"github.com/mvmctl/mvmctl/internal/cli"
	"github.com/mvmctl/mvmctl/internal/config"
	"github.com/mvmctl/mvmctl/internal/doctor"
	"github.com/mvmctl/mvmctl/internal/engine"
	"github.com/mvmctl/mvmctl/internal/image"
	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/paths"
)

// deps hands the commands what they may need. Nothing of it is made before a command asks.
func deps() cli.Deps {
	return cli.Deps{
		Engine: func(config.Config) (cli.Engine, error) {
			e, _, err := newEngine()
			if err != nil {
				return nil, err
			}
			return e, nil
		},
		Builder: newBuilder,
		Catalog: func() (catalog.Catalog, error) {
			p, err := paths.Find(os.Getenv, os.Geteuid())
			if err != nil {
				return catalog.Catalog{}, err
			}
			return catalog.Load(filepath.Join(p.Config, "catalogs"))
		},
		Doctor:     host,
		UserConfig: userConfig,
		Version:    cli.VersionInfo{Version: version, Components: components},
	}
}

func newEngine() (*engine.Engine, paths.Paths, error) {
	p, err := paths.Find(os.Getenv, os.Geteuid())
	if err != nil {
		return nil, p, err
	}
	level := slog.LevelError
	if os.Getenv("MVM_DEBUG") != "" {
		level = slog.LevelDebug
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	return engine.New(parts(p, log)), p, nil
}

func newBuilder(config.Config) (cli.Builder, error) {
	p, err := paths.Find(os.Getenv, os.Geteuid())
	if err != nil {
		return nil, err
	}
	return &build.Builder{
		Images: image.New(p.Cache), Blobs: filepath.Join(p.Cache, "blobs"), Work: filepath.Join(p.Cache, "work"),
		Version: version, Environ: os.Environ(), Linux: nixLinux(p.State),
	}, nil
}

func userConfig() (string, error) {
	p, err := paths.Find(os.Getenv, os.Geteuid())
	if err != nil {
		return "", err
	}
	return filepath.Join(p.Config, "config.toml"), nil
}

// components are the parts of the program that have versions of their own.
func components(ctx context.Context) []cli.Component {
	out := []cli.Component{{Name: "mvmctl", Version: version}}
	e, _, err := newEngine()
	if err != nil {
		return out
	}
	if _, digest, err := e.Agent(ctx); err == nil {
		out = append(out, cli.Component{Name: "mvm-agent", Version: digest[:12]})
	}
	if ks, err := e.Kernels(ctx); err == nil && len(ks) > 0 {
		out = append(out, cli.Component{Name: "guest kernel", Version: ks[0].Release})
	}
	return out
}

// Free space that the directories should have, in bytes: some machines' first writes, and one
// kernel with everything made from it.
const (
	stateNeeds = 512 << 20
	cacheNeeds = 512 << 20
)

// closeDir makes one of our directories and closes it to others: `doctor --fix` was asked to. A
// sticky one, such as /tmp, is shared on purpose and stays as it is.
func closeDir(dir string) error {
	if info, err := os.Lstat(dir); err == nil && info.IsDir() && info.Mode()&fs.ModeSticky == 0 {
		if err := os.Chmod(dir, 0o700); err != nil {
			return paths.WriteError("closing "+dir, err)
		}
	}
	return paths.MakePrivate(dir)
}

// host says what doctor looks at beside what the engine answers.
func host(config.Config) doctor.Host {
	p, err := paths.Find(os.Getenv, os.Geteuid())
	if err != nil {
		return doctor.Host{Settings: func() error { return err }}
	}
	e, _, _ := newEngine()
	h := doctor.Host{
		Dirs: []doctor.Dir{
			{Name: "state", Path: p.State, Needs: stateNeeds},
			{Name: "cache", Path: p.Cache, Needs: cacheNeeds},
			{Name: "runtime", Path: p.Runtime},
		},
		MakeDir: closeDir,
		Agent: func() (doctor.Thing, error) {
			path, digest, err := e.Agent(context.Background())
			if err != nil {
				return doctor.Thing{}, err
			}
			return doctor.Thing{Name: "mvm-agent " + digest[:12], Note: path}, nil
		},
		Clean: func(ctx context.Context, name string) error {
			if name == "" {
				e.Heal(ctx)
				return nil
			}
			err := e.Down(ctx, name, engine.DownOptions{})
			if machine.CodeOf(err) == "machine.not_found" {
				return nil
			}
			return err
		},
	}
	return h
}
