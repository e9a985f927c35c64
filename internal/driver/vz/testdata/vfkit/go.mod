// A module of its own, so that what vfkit needs is not what mvmctl needs.
module github.com/mvmctl/mvmctl/internal/driver/vz/testdata/vfkit

go 1.26

require (
	github.com/crc-org/vfkit v0.6.3
	github.com/spf13/cobra v1.10.2
)

require (
	github.com/containers/common v0.64.2 // indirect
	github.com/spf13/pflag v1.0.10 // indirect
)
