package httpserver

import (
	"container/list"
	"net/netip"
	"time"
)

// Limits say how many connections there may be.
type Limits struct {
	// Connections is the number of all.
	Connections int
	// PerAddress is the number of those from one address: an IPv4 address, or the /64 prefix of an IPv6 address, which is
	// what one host can have all addresses of.
	PerAddress int
}

// newcomers is the part of a limit that connections may have that delivered nothing yet, before they make room for others.
// Less than that, and callers that have delivered one request and are idle since could shut out those that come.
const newcomers = 4

// queue knows the connections and which of them makes room for a new one at a limit:
//
//	which                         among                  when
//	----------------------------  ---------------------  ---------------------------------------------------------------
//	one that delivered nothing    those of its address   the address is at its limit
//	                              all                    all are at their limit
//	one that delivered something  the same               the same, but less than a quarter of the limit delivered nothing
//
// Of an address it is the one that has delivered nothing for longest. Among all, it is one of the address whose connections
// have delivered nothing for longest when their times are added up: a thousand that come and go count as much as a few that
// stay. An API server's connection delivers its first request some milliseconds after it was accepted, so that its address
// comes last however many it opens at once. And idle connections of API servers stay, while there are others that have
// never delivered anything.
//
// It is not safe for concurrent use.
type queue struct {
	limits  Limits
	size    int
	silent  int // of those that delivered nothing yet
	holders map[netip.Addr]*holder
}

// holder is what one address has.
type holder struct {
	address netip.Addr
	silent  class // in the order in which they were accepted
	served  class // in the order of their last delivery
}

func (h *holder) size() int { return h.silent.Len() + h.served.Len() }

// class is a list of connections, the one that has delivered nothing for longest first.
type class struct {
	list.List
	since time.Duration // sum over all of when they were accepted or delivered last
}

// entry is a connection in the queue.
type entry struct {
	holder  *holder
	class   *class
	element *list.Element
	since   time.Duration
	conn    *conn
	reason  string // why it was evicted
}

func newQueue(limits Limits) *queue {
	return &queue{limits: limits, holders: map[netip.Addr]*holder{}}
}

// add takes in a connection at the time now and returns those that make room for it. They are in the queue no more.
func (q *queue) add(e *entry, from netip.Addr, now time.Duration) (evicted []*entry) {
	from = holderAddress(from)
	h := q.holders[from]
	if h != nil && h.size() >= q.limits.PerAddress {
		evicted = append(evicted, q.evict(h, h.silent.Len(), q.limits.PerAddress, reasonAddressLimit))
	}
	if q.size >= q.limits.Connections {
		evicted = append(evicted, q.evict(q.worst(now), q.silent, q.limits.Connections, reasonConnectionLimit))
	}
	if h = q.holders[from]; h == nil {
		h = &holder{address: from}
		q.holders[from] = h
	}
	e.holder = h
	q.push(e, &h.silent, now)
	q.size++
	return evicted
}

// deliver is called when a connection has delivered a request.
func (q *queue) deliver(e *entry, now time.Duration) {
	if e.class == nil {
		return
	}
	q.pull(e)
	q.push(e, &e.holder.served, now)
}

// remove is called when a connection has ended. It may have been evicted before.
func (q *queue) remove(e *entry) {
	if e.class == nil {
		return
	}
	q.pull(e)
	q.size--
	if e.holder.size() == 0 {
		delete(q.holders, e.holder.address)
	}
}

func (q *queue) push(e *entry, to *class, now time.Duration) {
	e.class, e.since, e.element = to, now, to.PushBack(e)
	to.since += now
	if to == &e.holder.silent {
		q.silent++
	}
}

func (q *queue) pull(e *entry) {
	if e.class == &e.holder.silent {
		q.silent--
	}
	e.class.Remove(e.element)
	e.class.since -= e.since
	e.class, e.element = nil, nil
}

// evict removes the worst connection of an address, at a limit below which there are as many silent ones.
func (q *queue) evict(h *holder, silent, limit int, reason string) *entry {
	from := &h.served
	if from.Len() == 0 || h.silent.Len() > 0 && tooManySilent(silent, limit) {
		from = &h.silent
	}
	e := from.Front().Value.(*entry)
	q.remove(e)
	e.reason = reason
	return e
}

// worst returns the address that is to lose a connection.
func (q *queue) worst(now time.Duration) *holder {
	silent := tooManySilent(q.silent, q.limits.Connections)
	var worst *holder
	longest := time.Duration(-1)
	for _, h := range q.holders {
		c := &h.served
		if silent {
			c = &h.silent
		}
		if waited := time.Duration(c.Len())*now - c.since; c.Len() > 0 && waited > longest {
			worst, longest = h, waited
		}
	}
	return worst
}

func tooManySilent(silent, limit int) bool { return silent > 0 && silent*newcomers >= limit }

// holderAddress is what addresses are counted by.
func holderAddress(address netip.Addr) netip.Addr {
	address = address.Unmap()
	if address.Is6() {
		if prefix, err := address.WithZone("").Prefix(64); err == nil {
			return prefix.Addr()
		}
	}
	return address
}
