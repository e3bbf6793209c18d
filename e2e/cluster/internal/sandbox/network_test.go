package sandbox

import (
	"errors"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

func TestNothingLeavesTheNetwork(t *testing.T) {
	s := create(t, "t-net")
	for _, node := range []int{FirstNode, 2} {
		if node != FirstNode {
			if err := s.AddNode(node); err != nil {
				t.Fatal(err)
			}
		}
		assertClosed(t, s, node)
	}
}

// assertClosed shows that a node has no way to the outside.
func assertClosed(t *testing.T, s *Sandbox, node int) {
	t.Helper()
	outside, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer outside.Close()
	err = s.InNetwork(node, func() error {
		connection, err := net.DialTimeout("tcp4", outside.Addr().String(), time.Second)
		if err == nil {
			connection.Close()
			return errors.New("the host's loopback can be reached")
		}
		interfaces, err := net.Interfaces()
		if err != nil {
			return err
		}
		for _, one := range interfaces {
			if one.Name != "lo" && one.Name != "node0" && one.Flags&net.FlagUp != 0 {
				return fmt.Errorf("there is an interface %q", one.Name)
			}
		}
		inside, err := net.Listen("tcp4", NodeIP(node)+":0")
		if err != nil {
			return fmt.Errorf("the node's address is not there: %w", err)
		}
		return inside.Close()
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Two nodes reach each other, also at addresses that only one of them knows, as those of its containers.
func TestNodesReachEachOther(t *testing.T) {
	s := create(t, "t-nodes")
	if err := s.AddNode(2); err != nil {
		t.Fatal(err)
	}
	containers := map[int]string{FirstNode: "10.99.1.1", 2: "10.99.2.1"}
	other := map[int]int{FirstNode: 2, 2: FirstNode}
	for node, ip := range containers {
		if err := s.InNetwork(node, func() error {
			link, err := netlink.LinkByName("lo")
			if err != nil {
				return err
			}
			return netlink.AddrAdd(link, &netlink.Addr{IPNet: &net.IPNet{IP: net.ParseIP(ip), Mask: net.CIDRMask(32, 32)}})
		}); err != nil {
			t.Fatal(err)
		}
		if err := s.Route(other[node], ip+"/24", node); err == nil {
			t.Error("a network with bits of a host is taken for another one")
		}
		if err := s.Route(other[node], ip[:len(ip)-1]+"0/24", node); err != nil {
			t.Fatal(err)
		}
	}
	for from, to := range other {
		for _, ip := range []string{NodeIP(to), containers[to]} {
			var listener net.Listener
			if err := s.InNetwork(to, func() (err error) {
				listener, err = net.Listen("tcp4", ip+":0")
				return err
			}); err != nil {
				t.Fatal(err)
			}
			if err := s.InNetwork(from, func() error {
				connection, err := net.DialTimeout("tcp4", listener.Addr().String(), 5*time.Second)
				if err == nil {
					connection.Close()
				}
				return err
			}); err != nil {
				t.Errorf("node %d does not reach node %d: %v", from, to, err)
			}
			listener.Close()
		}
	}
}
