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

// NodeIP is the address of the machine inside its network namespace, from the range for tests of devices (RFC 2544).
// Every sandbox has the same one: the namespaces do not see each other.
const NodeIP = "198.18.0.10"

// createNetwork makes a network namespace that has no way to the outside.
func (s *Sandbox) createNetwork() error {
	if err := s.createNamespace(); err != nil {
		return fmt.Errorf("creating a network namespace: %w", err)
	}
	if err := s.InNetwork(configureNetwork); err != nil {
		return fmt.Errorf("configuring the network namespace: %w", err)
	}
	return nil
}

// createNamespace binds the namespace to a file, so that it lives without a process and is found by its path.
func (s *Sandbox) createNamespace() error {
	path := s.Path(netnsFile)
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
	return <-done
}

// configureNetwork runs inside the namespace.
func configureNetwork() error {
	// A kernel for small virtual machines may have no device of type "dummy"; a bridge without ports does the same.
	node := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "node0"}}
	if err := netlink.LinkAdd(node); err != nil {
		return fmt.Errorf("adding device %q: %w", node.Name, err)
	}
	address := &netlink.Addr{IPNet: &net.IPNet{IP: net.ParseIP(NodeIP), Mask: net.CIDRMask(24, 32)}}
	if err := netlink.AddrAdd(node, address); err != nil {
		return fmt.Errorf("adding address %s: %w", address, err)
	}
	for _, name := range []string{"lo", node.Name} {
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
	if err := netlink.RouteAdd(&netlink.Route{LinkIndex: node.Index, Dst: everywhere, Scope: netlink.SCOPE_LINK}); err != nil {
		return fmt.Errorf("adding the default route: %w", err)
	}
	return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0)
}

// InNetwork calls the function on a thread that is in the sandbox's network namespace. Sockets and processes that the
// function itself makes stay there; goroutines that it starts run outside.
func (s *Sandbox) InNetwork(call func() error) error {
	inside, err := os.Open(s.Path(netnsFile))
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
