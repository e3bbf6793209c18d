// Package memorylimit keeps a process of ours within the memory of its container.
package memorylimit

import (
	"log/slog"
	"math"

	"github.com/KimMachineGun/automemlimit/memlimit"
)

// share of the container's memory is for what Go manages. The rest is for what it does not: pages of the binary, and the
// buffers of connections, of which a flood of callers brings the most.
const share = 0.8

// Apply has Go's collector run more often before the container's limit is reached, instead of being killed at it. Without a
// limit, or with the variable GOMEMLIMIT, everything stays as it is.
func Apply(logger *slog.Logger) {
	limit, err := memlimit.Set(memlimit.WithRatio(share))
	switch {
	case err != nil:
		logger.Warn("The container's memory limit is not known, and nothing is done to stay below it", "error", err)
	case limit != math.MaxInt64:
		logger.Info("Memory is kept below a limit", "bytes", limit)
	}
}
