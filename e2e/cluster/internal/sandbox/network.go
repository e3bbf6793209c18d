package sandbox

import (
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// NodeIP is the address of a node inside the network namespaces, from the range for tests of devices (RFC 2544). Every
// sandbox has the same ones: the namespaces of two sandboxes do not see each other.
func NodeIP(node int) string { return fmt.Sprintf("198.18.0.%d", 9+node) }

// device has the node's address.
const device = "node0"

// createNetwork makes the network namespace of the first node, which has no way to the outside.
func (s *Sandbox) createNetwork() error {
	if err := s.createNamespace(FirstNode); err != nil {
		return err
	}
	return s.configureNetwork(FirstNode, func() error {
		// A kernel for small virtual machines may have no device of type "dummy"; a bridge without ports does the same. The
		// cables of other nodes become its ports.
		return netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: device}})
	})
}

// connect makes the network namespace of another node, which reaches the first one's by a cable and nothing else.
func (s *Sandbox) connect(node int) error {
	if err := s.createNamespace(node); err != nil {
		return err
	}
	inside, err := os.Open(s.netnsFile(node))
	if err != nil {
		return err
	}
	defer func() { _ = inside.Close() }()
	port := fmt.Sprintf("port%d", node)
	err = s.InNetwork(FirstNode, func() error {
		bridge, err := netlink.LinkByName(device)
		if err != nil {
			return fmt.Errorf("finding device %q: %w", device, err)
		}
		cable := &netlink.Veth{
			LinkAttrs:     netlink.LinkAttrs{Name: port, MasterIndex: bridge.Attrs().Index},
			PeerName:      device,
			PeerNamespace: netlink.NsFd(int(inside.Fd())),
		}
		if err := netlink.LinkAdd(cable); err != nil {
			return fmt.Errorf("adding device %q: %w", port, err)
		}
		return netlink.LinkSetUp(cable)
	})
	if err != nil {
		return err
	}
	return s.configureNetwork(node, func() error { return nil })
}

// createNamespace binds the namespace to a file, so that it lives without a process and is found by its path.
func (s *Sandbox) createNamespace(node int) error {
	path := s.netnsFile(node)
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		return err
	}
	done := make(chan error)
	go func() {
		// The thread is never unlocked: it ends with this goroutine, and the namespace is no other goroutine's.
		runtime.LockOSThread()
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			err = unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, "")
		}
		done <- err
	}()
	if err := <-done; err != nil {
		return fmt.Errorf("creating a network namespace: %w", err)
	}
	return nil
}

func (s *Sandbox) netnsFile(node int) string {
	if node == FirstNode {
		return s.Path("netns")
	}
	return s.Path(fmt.Sprintf("netns%d", node))
}

// configureNetwork gives the node its address, after the device for it was made inside its namespace.
func (s *Sandbox) configureNetwork(node int, makeDevice func() error) error {
	err := s.InNetwork(node, func() error {
		if err := makeDevice(); err != nil {
			return fmt.Errorf("adding device %q: %w", device, err)
		}
		return configure(NodeIP(node))
	})
	if err != nil {
		return fmt.Errorf("configuring the network namespace of node %d: %w", node, err)
	}
	return nil
}

// configure runs inside the namespace.
func configure(ip string) error {
	link, err := netlink.LinkByName(device)
	if err != nil {
		return fmt.Errorf("finding device %q: %w", device, err)
	}
	address := &netlink.Addr{IPNet: &net.IPNet{IP: net.ParseIP(ip), Mask: net.CIDRMask(24, 32)}}
	if err := netlink.AddrAdd(link, address); err != nil {
		return fmt.Errorf("adding address %s: %w", address, err)
	}
	for _, name := range []string{"lo", device} {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return fmt.Errorf("finding device %q: %w", name, err)
		}
		if err := netlink.LinkSetUp(link); err != nil {
			return fmt.Errorf("setting up device %q: %w", name, err)
		}
	}
	// A packet to a ClusterIP needs a route before kube-proxy's rules give it another destination.
	everywhere := &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}
	if err := netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: everywhere, Scope: netlink.SCOPE_LINK}); err != nil {
		return fmt.Errorf("adding the default route: %w", err)
	}
	return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0)
}

// Route has one node send what is for a network, such as "10.0.1.0/24", to another node.
func (s *Sandbox) Route(on int, network string, to int) error {
	ip, destination, err := net.ParseCIDR(network)
	if err != nil {
		return err
	}
	if !ip.Equal(destination.IP) {
		return fmt.Errorf("%s is an address, not a network; the network is %s", network, destination)
	}
	err = s.InNetwork(on, func() error {
		return netlink.RouteAdd(&netlink.Route{Dst: destination, Gw: net.ParseIP(NodeIP(to))})
	})
	if err != nil {
		return fmt.Errorf("adding a route to %s on node %d: %w", network, on, err)
	}
	return nil
}

// InNetwork calls the function on a thread that is in the network namespace of that node. Sockets and processes that the
// function itself makes stay there; goroutines that it starts run outside.
func (s *Sandbox) InNetwork(node int, call func() error) error {
	inside, err := os.Open(s.netnsFile(node))
	if err != nil {
		return err
	}
	defer func() { _ = inside.Close() }()
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		outside, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			done <- err
			return
		}
		defer func() { _ = outside.Close() }()
		if err := unix.Setns(int(inside.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("entering the network namespace: %w", err)
			return
		}
		err = call()
		if back := unix.Setns(int(outside.Fd()), unix.CLONE_NEWNET); back != nil {
			// Still locked, the thread ends together with the goroutine and is not used again.
			err = errors.Join(err, fmt.Errorf("leaving the network namespace: %w", back))
		} else {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}
