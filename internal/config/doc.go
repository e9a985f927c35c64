// Package config answers what the user set, and where: the settings of mvmctl from flags,
// MVM_* environment variables, the project file mvm.toml, the user's config.toml and the
// defaults, in this order of precedence.
//
// It keeps every value as the text that the user wrote together with its origin; turning
// "2G" into bytes is the vocabulary's business, so the caller hands in the check. It writes no
// files and knows no machines. Only cli (and the composition root) see it; everyone else gets
// typed arguments.
package config
