package httpserver

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// queueTest plays with a queue. Connections have names of their own, and the clock goes on by a second with each step.
type queueTest struct {
	*testing.T
	queue *queue
	named map[string]*entry
	now   time.Duration
}

func newQueueTest(t *testing.T, total, perAddress int) *queueTest {
	return &queueTest{T: t, queue: newQueue(Limits{total, perAddress}), named: map[string]*entry{}}
}

// play takes steps "name@address" (a connection is accepted), "name!" (it delivers a request) and "name-" (it is closed), and
// returns the names of those that had to make room, in their order.
func (q *queueTest) play(steps string) string {
	q.Helper()
	var evicted []string
	for step := range strings.FieldsSeq(steps) {
		q.now += time.Second
		name, address, accepted := strings.Cut(step, "@")
		switch {
		case accepted:
			e := &entry{}
			for _, out := range q.queue.add(e, netip.MustParseAddr(address), q.now) {
				for name, candidate := range q.named {
					if candidate == out {
						evicted = append(evicted, name)
						delete(q.named, name)
					}
				}
			}
			q.named[name] = e
		case strings.HasSuffix(step, "!"):
			q.queue.deliver(q.named[step[:len(step)-1]], q.now)
		default:
			q.queue.remove(q.named[step[:len(step)-1]])
			delete(q.named, step[:len(step)-1])
		}
	}
	return strings.Join(evicted, " ")
}

const honest = "192.0.2.1"

func TestWhoMakesRoom(t *testing.T) {
	tests := map[string]struct {
		total, perAddress int
		steps, want       string
	}{
		"none below the limits": {
			4, 2, "a@192.0.2.1 b@192.0.2.1 c@198.51.100.1 d@198.51.100.1", "",
		},
		"at an address's limit, that of its connections that has delivered nothing for longest": {
			9, 2, "h@198.51.100.1 a@192.0.2.1 b@192.0.2.1 c@192.0.2.1 d@192.0.2.1", "a b",
		},
		"there too, those that never delivered anything go first": {
			9, 3, "a@192.0.2.1 b@192.0.2.1 a! c@192.0.2.1 d@192.0.2.1", "b",
		},
		"idle connections stay, however long, while there are others that never delivered anything": {
			4, 4, "h@192.0.2.1 h! i@192.0.2.1 i! a@198.51.100.1 b@198.51.100.1 c@198.51.100.1 d@198.51.100.1", "a b",
		},
		"who delivered something and is idle does not shut out those that come": {
			// A quarter of eight are two: c evicts idle ones until two are new.
			8, 8, "a@198.51.100.1 a! b@198.51.100.1 b! c@198.51.100.1 c! d@198.51.100.1 d! " +
				"e@203.0.113.1 e! f@203.0.113.1 f! g@203.0.113.1 g! h@203.0.113.1 h! i@192.0.2.1 j@192.0.2.1 k@192.0.2.1", "a b i",
		},
		"of idle ones, the one whose last request is oldest": {
			8, 8, "a@198.51.100.1 a! b@198.51.100.1 b! c@198.51.100.1 c! d@198.51.100.1 d! " +
				"e@198.51.100.1 e! f@198.51.100.1 f! g@198.51.100.1 g! h@198.51.100.1 h! a! i@192.0.2.1", "b",
		},
		"the one who holds many loses them, not the one who just came with one": {
			4, 4, "a@198.51.100.1 b@198.51.100.1 c@198.51.100.1 h@192.0.2.1 d@198.51.100.1 e@203.0.113.1", "a b",
		},
		"many that come and go count as much as one that stays": {
			// h is older than each of the others' connections, but not than all of them together.
			4, 4, "a@198.51.100.1 b@198.51.100.1 h@192.0.2.1 c@198.51.100.1 d@198.51.100.1 e@198.51.100.1 f@198.51.100.1", "a b c",
		},
		"addresses of one IPv6 network are one": {
			9, 2, "a@2001:db8::1 b@2001:db8::2 c@2001:db8::ffff:3 d@2001:db8:0:1::1", "a",
		},
		"an IPv4 address is the same in an IPv6 one": {
			9, 2, "a@::ffff:192.0.2.1 b@192.0.2.1 c@::ffff:192.0.2.1 d@::ffff:192.0.2.2", "a",
		},
		"what was closed makes no room, and none is needed": {
			2, 2, "a@192.0.2.1 b@198.51.100.1 a- c@192.0.2.1 b- c- d@192.0.2.1 e@192.0.2.1", "",
		},
		"a newcomer never makes room for itself": {
			1, 1, "a@192.0.2.1 b@198.51.100.1 c@192.0.2.1 c! d@203.0.113.1", "a b c",
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			q := newQueueTest(t, test.total, test.perAddress)
			if got := q.play(test.steps); got != test.want {
				t.Errorf("%q made room, want %q", got, test.want)
			}
		})
	}
}

// An API server that opens a burst of connections under attack keeps them all for the time that it needs to deliver.
func TestBurstUnderAttack(t *testing.T) {
	const total, attackers, burst = 512, 20, 100
	attacks := map[string]struct {
		attack func(e []*entry, q *queue, now time.Duration, i int)
		// underWay is how many connections of the burst have not delivered yet, one for each 1.1 ms.
		underWay int
	}{
		"that stays silent":       {func([]*entry, *queue, time.Duration, int) {}, 25},
		"that delivers sometimes": {func(e []*entry, q *queue, now time.Duration, i int) { q.deliver(e[i*7%len(e)], now) }, 7},
	}
	for name, test := range attacks {
		t.Run(name, func(t *testing.T) {
			q := newQueue(Limits{total, total * 3 / 4})
			now := time.Duration(0)
			var all []*entry
			connect := func(address string) []*entry {
				now += 100 * time.Microsecond // ten thousand a second
				e := &entry{}
				all = append(all, e)
				return q.add(e, netip.MustParseAddr(address), now)
			}
			for i := range 5000 {
				connect(fmt.Sprintf("198.51.100.%d", i%attackers))
				test.attack(all, q, now, i)
			}
			mine := map[*entry]bool{}
			for i := range burst {
				for j := range 10 {
					for _, out := range connect(fmt.Sprintf("198.51.100.%d", (i+j)%attackers)) {
						if mine[out] {
							t.Fatalf("connection %d of the burst had to go after %v", i, now-out.since)
						}
					}
				}
				for _, out := range connect(honest) {
					if mine[out] {
						t.Fatalf("connection %d of the burst had to go for another one", i)
					}
				}
				mine[all[len(all)-1]] = true
				if i >= test.underWay {
					delivered := all[len(all)-1-test.underWay*11]
					q.deliver(delivered, now)
					delete(mine, delivered) // idle: a client opens another one
				}
			}
		})
	}
}

// Whatever happens, no limit is exceeded and all counts are right.
func TestQueueCounts(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	q := newQueue(Limits{20, 7})
	var all []*entry
	for now := range 20000 * time.Microsecond / time.Microsecond {
		switch random.IntN(3) {
		case 0, 1:
			e := &entry{}
			all = append(all, e)
			q.add(e, netip.AddrFrom4([4]byte{byte(random.IntN(6))}), now)
		case 2:
			if e := all[max(0, len(all)-1-random.IntN(30)):]; len(e) > 0 && random.IntN(2) == 0 {
				q.remove(e[0])
			} else if len(e) > 0 {
				q.deliver(e[0], now)
			}
		}
		size, silent := 0, 0
		for address, h := range q.holders {
			if h.size() == 0 || h.size() > 7 {
				t.Fatalf("%v has %d connections", address, h.size())
			}
			for _, c := range []*class{&h.silent, &h.served} {
				var since time.Duration
				for element := c.Front(); element != nil; element = element.Next() {
					since += element.Value.(*entry).since
				}
				if since != c.since {
					t.Fatalf("sum %d, want %d", c.since, since)
				}
			}
			size, silent = size+h.size(), silent+h.silent.Len()
		}
		if size != q.size || silent != q.silent || size > 20 {
			t.Fatalf("size %d and %d silent, counted %d and %d", q.size, q.silent, size, silent)
		}
	}
}
