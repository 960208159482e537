import os

import pytest

from ingress.cpus import available_cpus, cgroup_quota, usable_cpus

V2 = "0::/\n"
V1 = "5:cpuset:/\n4:cpu,cpuacct:/docker/abc\n1:name=systemd:/docker/abc\n"


@pytest.mark.parametrize(
    ("affinity", "quota", "cpus"),
    [(8, None, 8), (8, 2.0, 2), (8, 1.5, 2), (8, 0.1, 1), (2, 16.0, 2), (1, None, 1), (0, None, 1)],
)
def test_usable_cpus(affinity, quota, cpus):
    assert usable_cpus(affinity, quota) == cpus


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        pytest.param({}, None, id="no cgroups"),
        pytest.param({"/proc/self/cgroup": V2}, None, id="v2 without the cpu controller"),
        pytest.param({"/proc/self/cgroup": V2, "/sys/fs/cgroup/cpu.max": "max 100000\n"}, None, id="v2 unlimited"),
        pytest.param({"/proc/self/cgroup": V2, "/sys/fs/cgroup/cpu.max": "150000 100000\n"}, 1.5, id="v2"),
        pytest.param({"/proc/self/cgroup": V2, "/sys/fs/cgroup/cpu.max": "150000\n"}, None, id="v2 cut short"),
        pytest.param({"/proc/self/cgroup": V2, "/sys/fs/cgroup/cpu.max": "150000 0\n"}, None, id="v2 no period"),
        pytest.param(
            {
                "/proc/self/cgroup": "0::/pods/pod1/main\n",
                "/sys/fs/cgroup/pods/pod1/main/cpu.max": "max 100000\n",
                "/sys/fs/cgroup/pods/pod1/cpu.max": "300000 100000\n",
                "/sys/fs/cgroup/pods/cpu.max": "800000 100000\n",
            },
            3.0,
            id="v2 ancestors limit too",
        ),
        pytest.param(
            {"/proc/self/cgroup": "0::/../../other\n", "/sys/fs/cgroup/cpu.max": "200000 100000\n"},
            2.0,
            id="v2 another namespace",
        ),
        pytest.param(
            {
                "/proc/self/cgroup": V1,
                "/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "250000\n",
                "/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            },
            2.5,
            id="v1 in a container: the host's path isn't there",
        ),
        pytest.param(
            {
                "/proc/self/cgroup": V1,
                "/sys/fs/cgroup/cpu/docker/abc/cpu.cfs_quota_us": "100000\n",
                "/sys/fs/cgroup/cpu/docker/abc/cpu.cfs_period_us": "100000\n",
                "/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            1.0,
            id="v1 on the host",
        ),
        pytest.param({"/proc/self/cgroup": "junk\n\n7\n::\n0:\n"}, None, id="junk"),
    ],
)
def test_cgroup_quota(files, quota):
    assert cgroup_quota(files.get) == quota


def test_available_cpus_of_this_process():
    assert 1 <= available_cpus() <= len(os.sched_getaffinity(0))
