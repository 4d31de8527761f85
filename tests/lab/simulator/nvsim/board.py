"""What a GPU is: the part of the XML tree that hardly changes (identity, MIG devices, firmware, PCI)."""

from __future__ import annotations

from typing import Any

from . import mig
from .models import DRIVER
from .reading import DEPRECATED, NA
from .state import Gpu

Node = tuple[str, Any]  # an element's name, and its text or its children


def leaves(value: str, *names: str) -> list[Node]:
    return [(name, value) for name in names]


def identity(gpu: Gpu, r: dict[str, Any]) -> list[Node]:
    model = gpu.model
    platform = leaves(NA, "chassis_serial_number", "slot_number", "tray_index", "host_id", "peer_type")
    return [
        ("product_name", model.name),
        ("product_brand", "NVIDIA"),
        ("product_architecture", model.architecture),
        ("display_mode", DEPRECATED),
        ("display_attached", "Yes"),
        ("display_active", "Disabled"),
        ("persistence_mode", r["persistence"]),
        ("addressing_mode", model.addressing),
        ("mig_mode", [("current_mig", r["mig_current"]), ("pending_mig", r["mig_pending"])]),
        ("mig_devices", [_mig_device(gpu, d) for d in mig.devices(gpu)] or "None"),
        ("accounting_mode", r["accounting"]),
        ("accounting_mode_buffer_size", "4000"),
        ("driver_model", leaves(NA, "current_dm", "pending_dm")),
        ("serial", gpu.serial),
        ("uuid", gpu.uuid),
        ("pdi", r["pdi"]),
        ("minor_number", str(gpu.index)),
        ("vbios_version", r["vbios"]),
        ("multigpu_board", "No"),
        ("board_id", f"0x{int(r['bus'], 16) << 8:x}"),
        ("board_part_number", model.board_part),
        ("gpu_part_number", model.gpu_part),
        ("gpu_fru_part_number", NA),
        ("platformInfo", [*platform, ("module_id", r["module_id"]), ("gpu_fabric_guid", NA)]),
    ]


def _mig_device(gpu: Gpu, device: mig.Device) -> Node:
    profile = device.profile
    shared = [
        ("multiprocessor_count", profile.multiprocessors),
        ("copy_engine_count", profile.copy_engines),
        ("encoder_count", 0),
        ("decoder_count", profile.decoders),
        ("ofa_count", profile.ofas),
        ("jpg_count", profile.jpegs),
    ]
    bar1 = gpu.model.bar1 * profile.memory_slices // 8
    return (
        "mig_device",
        [
            ("index", str(device.index)),
            ("gpu_instance_id", str(device.instance)),
            ("compute_instance_id", str(device.compute)),
            ("device_attributes", [("shared", [(name, str(value)) for name, value in shared])]),
            ("ecc_error_count", [("volatile_count", [("sram_uncorrectable", "0")])]),
            (
                "fb_memory_usage",
                [
                    ("total", f"{profile.memory} MiB"),
                    ("reserved", "0 MiB"),
                    ("used", f"{device.used} MiB"),
                    ("free", f"{profile.memory - device.used} MiB"),
                ],
            ),
            (
                "bar1_memory_usage",
                [("total", f"{bar1} MiB"), ("used", "0 MiB"), ("free", f"{bar1} MiB")],
            ),
        ],
    )


def firmware(gpu: Gpu, r: dict[str, Any]) -> list[Node]:
    model = gpu.model
    return [
        (
            "inforom_version",
            [
                ("img_version", model.inforom_image),
                ("oem_object", model.oem),
                ("ecc_object", model.inforom_ecc),
                ("pwr_object", NA),
            ],
        ),
        ("inforom_bbx_flush", leaves(NA, "latest_timestamp", "latest_duration")),
        ("gpu_operation_mode", leaves(NA, "current_gom", "pending_gom")),
        ("c2c_mode", "Disabled" if model.fabric else NA),
        (
            "gpu_virtualization_mode",
            [("virtualization_mode", "None"), *leaves(NA, "host_vgpu_mode", "vgpu_heterogeneous_mode")],
        ),
        ("gpu_recovery_action", r["recovery"]),
        ("gsp_firmware_version", DRIVER),
        ("ibmnpu", leaves(NA, "relaxed_ordering_mode")),
    ]


def pci(gpu: Gpu, r: dict[str, Any]) -> Node:
    gen = str(gpu.model.pcie_gen)
    generation = [
        *leaves(gen, "max_link_gen", "current_link_gen", "device_current_link_gen", "max_device_link_gen"),
        ("max_host_link_gen", NA),
    ]
    return (
        "pci",
        [
            ("pci_bus", r["bus"]),
            ("pci_device", r["device"]),
            ("pci_domain", r["domain"]),
            ("pci_base_class", "3"),
            ("pci_sub_class", "2"),
            ("pci_device_id", gpu.model.device_id),
            ("pci_bus_id", gpu.smi_bus),
            ("pci_sub_system_id", gpu.model.subsystem_id),
            (
                "pci_gpu_link_info",
                [
                    ("pcie_gen", generation),
                    ("link_widths", [("max_link_width", "16x"), ("current_link_width", r["pcie_width"])]),
                ],
            ),
            ("pci_bridge_chip", leaves(NA, "bridge_chip_type", "bridge_chip_fw")),
            ("replay_counter", "0"),
            ("replay_rollover_counter", "0"),
            ("tx_util", "352 KB/s"),
            ("rx_util", "329 KB/s"),
            ("atomic_caps_outbound", NA),
            ("atomic_caps_inbound", NA),
        ],
    )
