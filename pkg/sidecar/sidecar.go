package sidecar

import (
	"context"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"time"

	"github.com/podtoken/podtoken/pkg/sidecar/config"
	"github.com/podtoken/podtoken/pkg/tokenfile"
)

// Sidecar keeps the tokens of one Config. All its state belongs to the goroutine of Run.
type Sidecar struct {
	config     config.Config
	minter     Minter
	writer     Writer
	log        *slog.Logger
	version    string
	onBatch    func(context.Context, Batch)
	onSnapshot func(Snapshot)
	refresh    <-chan os.Signal
	cluster    func() (tokenfile.Cluster, error)
	alarm      Alarm

	clock  func() instant
	random func() float64
	// phase is this pod's place among all that were started together: see spread.
	phase float64

	tokens  []*token
	results chan result
	running int
	batch   Batch
	// batchBegan is when its first file was replaced.
	batchBegan instant
	// connected since the minter was told to rest.
	connected bool

	// The next look at files and credential is due when lookAfter has passed since looked.
	looked    instant
	lookAfter time.Duration
	// status is the status file as it was written; nil when it could not be.
	status  fs.FileInfo
	canary  canary
	renewal renewal
}

// Batch is what changed between two times of rest.
type Batch struct {
	// Written are the names of the tokens whose files got another content, sorted.
	Written []string
}

// Deps are what a Sidecar works with.
type Deps struct {
	Minter  Minter
	Writer  Writer
	Log     *slog.Logger
	Version string
	// OnBatch, if set, is called by Run after files were replaced and nothing is on its way any more, or after maxBatch: the
	// place for notifications. It must not block for long.
	OnBatch func(context.Context, Batch)
	// OnSnapshot, if set, is called by Run after every change, before OnBatch, and at least every minute, so that it also
	// tells that the loop turns. It must be cheap.
	OnSnapshot func(Snapshot)
	// Refresh, if set, asks for every token to be replaced now.
	Refresh <-chan os.Signal
	// Cluster, if set, tells what files that are made out of tokens may say of the cluster. It is called at least every minute
	// where they do, and is cheap. Its errors are as Mint's.
	Cluster func() (tokenfile.Cluster, error)
	// Alarm wakes Run; nil for a timer of Go's runtime.
	Alarm Alarm
}

// Alarm wakes the loop. internal/alarm is the real one; tests, whose clock is not real, have the runtime's.
type Alarm interface {
	// Set has Rings receive after d, and not when it was to before.
	Set(d time.Duration)
	Rings() <-chan time.Time
}

type runtimeAlarm struct{ *time.Timer }

func (a runtimeAlarm) Set(d time.Duration)     { a.Reset(d) }
func (a runtimeAlarm) Rings() <-chan time.Time { return a.C }

// New prepares a Sidecar; it does no I/O. The config must be valid.
func New(c config.Config, deps Deps) *Sidecar {
	started := time.Now()
	s := &Sidecar{
		config:     c,
		minter:     deps.Minter,
		writer:     deps.Writer,
		log:        deps.Log,
		version:    deps.Version,
		onBatch:    deps.OnBatch,
		onSnapshot: deps.OnSnapshot,
		refresh:    deps.Refresh,
		cluster:    deps.Cluster,
		alarm:      deps.Alarm,
		clock: func() instant {
			now := time.Now()
			return instant{monotonic: now.Sub(started), wall: now.Round(0)}
		},
		random: rand.Float64,
		phase:  rand.Float64(), //nolint:gosec // spreads load, keeps no secret
		// Room for all that can be on its way, so that nobody waits for a Run that has ended.
		results: make(chan result, concurrency+1),
	}
	for _, spec := range c.Tokens {
		mode, _ := config.ParseMode(spec.Mode) // the config is valid
		s.tokens = append(s.tokens, newToken(spec, mode))
	}
	return s
}
