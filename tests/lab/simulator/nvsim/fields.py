"""The fields of --query-gpu and of --query-compute-apps: names, aliases, units and where the value lies.

A source is a path in the GPU's XML tree, or a name in `csvout.OWN` behind an equals sign. An empty source
is a field which no described model supports.
"""

# ruff: noqa: E501 - a table reads by its lines

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Field:
    name: str
    unit: str
    source: str
    aliases: tuple[str, ...]


# a line: the name with its unit, the aliases, the source
_TABLE = """
timestamp | | =timestamp
driver_version | | =driver
kmd_version | | =driver
vgpu_driver_capability.heterogenous_multivGPU | |
count | | =count
name | gpu_name | product_name
serial | gpu_serial | serial
uuid | gpu_uuid | uuid
pci.bus_id | gpu_bus_id | pci/pci_bus_id
pci.domain | | =0x pci/pci_domain
pci.bus | | =0x pci/pci_bus
pci.device | | =0x pci/pci_device
pci.baseClass | | =0x pci/pci_base_class
pci.subClass | | =0x pci/pci_sub_class
pci.device_id | | =0x pci/pci_device_id
pci.sub_device_id | | =0x pci/pci_sub_system_id
vgpu_device_capability.fractional_multiVgpu | |
vgpu_device_capability.heterogeneous_timeSlice_profile | |
vgpu_device_capability.heterogeneous_timeSlice_sizes | |
vgpu_device_capability.homogeneous_placements | |
vgpu_device_capability.mig_timeSlicing | |
vgpu_device_capability.mig_timeSlicing_mode | |
pcie.link.gen.current | | pci/pci_gpu_link_info/pcie_gen/current_link_gen
pcie.link.gen.gpucurrent | | pci/pci_gpu_link_info/pcie_gen/device_current_link_gen
pcie.link.gen.max | | pci/pci_gpu_link_info/pcie_gen/max_link_gen
pcie.link.gen.gpumax | | pci/pci_gpu_link_info/pcie_gen/max_device_link_gen
pcie.link.gen.hostmax | | pci/pci_gpu_link_info/pcie_gen/max_host_link_gen
pcie.link.width.current | | =x pci/pci_gpu_link_info/link_widths/current_link_width
pcie.link.width.max | | =x pci/pci_gpu_link_info/link_widths/max_link_width
index | | =index
display_mode | | display_mode
display_attached | | display_attached
display_active | | display_active
persistence_mode | | persistence_mode
addressing_mode | | =raw addressing_mode
accounting.mode | | accounting_mode
accounting.buffer_size | | accounting_mode_buffer_size
driver_model.current | | driver_model/current_dm
driver_model.pending | | driver_model/pending_dm
vbios_version | | vbios_version
inforom.img | inforom.image | inforom_version/img_version
inforom.oem | | inforom_version/oem_object
inforom.ecc | | inforom_version/ecc_object
inforom.pwr | inforom.power | inforom_version/pwr_object
inforom.checksum_validation | | =valid
gpu_recovery_action | | =raw gpu_recovery_action
gom.current | gpu_operation_mode.current | gpu_operation_mode/current_gom
gom.pending | gpu_operation_mode.pending | gpu_operation_mode/pending_gom
fan.speed [%] | | fan_speed
pstate | | performance_state
clocks_event_reasons.supported | clocks_throttle_reasons.supported | =supported
clocks_event_reasons.active | clocks_throttle_reasons.active | =active
clocks_event_reasons.gpu_idle | clocks_throttle_reasons.gpu_idle | =reason
clocks_event_reasons.applications_clocks_setting | clocks_throttle_reasons.applications_clocks_setting | =reason
clocks_event_reasons.sw_power_cap | clocks_throttle_reasons.sw_power_cap | =reason
clocks_event_reasons.hw_slowdown | clocks_throttle_reasons.hw_slowdown | =reason
clocks_event_reasons.hw_thermal_slowdown | clocks_throttle_reasons.hw_thermal_slowdown | =reason
clocks_event_reasons.hw_power_brake_slowdown | clocks_throttle_reasons.hw_power_brake_slowdown | =reason
clocks_event_reasons.sw_thermal_slowdown | clocks_throttle_reasons.sw_thermal_slowdown | =reason
clocks_event_reasons.sync_boost | clocks_throttle_reasons.sync_boost | =reason
clocks_event_reasons_counters.sw_power_cap [us] | | =zero
clocks_event_reasons_counters.sync_boost [us] | | =zero
clocks_event_reasons_counters.sw_thermal_slowdown [us] | | =zero
clocks_event_reasons_counters.hw_thermal_slowdown [us] | | =zero
clocks_event_reasons_counters.hw_power_brake_slowdown [us] | | =zero
memory.total [MiB] | | fb_memory_usage/total
memory.reserved [MiB] | | fb_memory_usage/reserved
memory.used [MiB] | | fb_memory_usage/used
memory.free [MiB] | | fb_memory_usage/free
compute_mode | | =mode compute_mode
compute_cap | | =capability
utilization.gpu [%] | | utilization/gpu_util
utilization.memory [%] | | utilization/memory_util
utilization.encoder [%] | | utilization/encoder_util
utilization.decoder [%] | | utilization/decoder_util
utilization.jpeg [%] | | utilization/jpeg_util
utilization.ofa [%] | | utilization/ofa_util
encoder.stats.sessionCount | | encoder_stats/session_count
encoder.stats.averageFps | | encoder_stats/average_fps
encoder.stats.averageLatency | | encoder_stats/average_latency
dramEncryption.mode.current | | dram_encryption_mode/current_dram_encryption
dramEncryption.mode.pending | | dram_encryption_mode/pending_dram_encryption
ecc.mode.current | | ecc_mode/current_ecc
ecc.mode.pending | | ecc_mode/pending_ecc
ECC
ecc.errors.uncorrected.volatile.sram.parity | | ecc_errors/volatile/sram_uncorrectable_parity
ecc.errors.uncorrected.volatile.sram.secded | | ecc_errors/volatile/sram_uncorrectable_secded
ecc.errors.uncorrected.aggregate.sram.parity | | ecc_errors/aggregate/sram_uncorrectable_parity
ecc.errors.uncorrected.aggregate.sram.secded | | ecc_errors/aggregate/sram_uncorrectable_secded
ecc.errors.uncorrected.aggregate.sram.thresholdExceeded | | ecc_errors/aggregate/sram_threshold_exceeded
ecc.errors.uncorrected.aggregate.sram.l2 | | ecc_errors/aggregate_uncorrectable_sram_sources/sram_l2
ecc.errors.uncorrected.aggregate.sram.sm | | ecc_errors/aggregate_uncorrectable_sram_sources/sram_sm
ecc.errors.uncorrected.aggregate.sram.mcu | | ecc_errors/aggregate_uncorrectable_sram_sources/sram_microcontroller
ecc.errors.uncorrected.aggregate.sram.pcie | | ecc_errors/aggregate_uncorrectable_sram_sources/sram_pcie
ecc.errors.uncorrected.aggregate.sram.other | | ecc_errors/aggregate_uncorrectable_sram_sources/sram_other
retired_pages.single_bit_ecc.count | retired_pages.sbe | retired_pages/multiple_single_bit_retirement/retired_count
retired_pages.double_bit.count | retired_pages.dbe | retired_pages/double_bit_retirement/retired_count
retired_pages.pending | | retired_pages/pending_retirement
remapped_rows.correctable | remapped_rows.sbe | remapped_rows/remapped_row_corr
remapped_rows.correctable_inactive | | remapped_rows/remapped_row_corr_inactive
remapped_rows.uncorrectable | remapped_rows.dbe | remapped_rows/remapped_row_unc
remapped_rows.uncorrectable_inactive | | remapped_rows/remapped_row_unc_inactive
remapped_rows.pending | | remapped_rows/remapped_row_pending
remapped_rows.failure | | remapped_rows/remapped_row_failure
remapped_rows.histogram.max | | =bank max
remapped_rows.histogram.high | | =bank high
remapped_rows.histogram.partial | | =bank partial
remapped_rows.histogram.low | | =bank low
remapped_rows.histogram.none | | =bank none
temperature.gpu | | =degrees temperature/gpu_temp
temperature.gpu.tlimit | | =degrees temperature/gpu_temp_tlimit
temperature.memory | | =degrees temperature/memory_temp
power.management | | =deprecated
power.draw [W] | | gpu_power_readings/average_power_draw
power.draw.average [W] | gpu.power.draw.average | gpu_power_readings/average_power_draw
power.draw.instant [W] | gpu.power.draw.instant | gpu_power_readings/instant_power_draw
power.limit [W] | gpu.power.requested_limit | gpu_power_readings/requested_power_limit
enforced.power.limit [W] | gpu.power.current_limit | gpu_power_readings/current_power_limit
power.default_limit [W] | gpu.power.default_limit | gpu_power_readings/default_power_limit
power.min_limit [W] | gpu.power.min_limit | gpu_power_readings/min_power_limit
power.max_limit [W] | gpu.power.max_limit | gpu_power_readings/max_power_limit
module.power.draw.average [W] | |
module.power.draw.instant [W] | |
module.power.limit [W] | module.power.requested_limit |
module.enforced.power.limit [W] | module.power.current_limit |
module.power.default_limit [W] | |
module.power.min_limit [W] | |
module.power.max_limit [W] | |
edpp_multiplier [%] | | =edpp edpp_multiplier
clocks.current.graphics [MHz] | clocks.gr | clocks/graphics_clock
clocks.current.sm [MHz] | clocks.sm | clocks/sm_clock
clocks.current.memory [MHz] | clocks.mem | clocks/mem_clock
clocks.current.video [MHz] | clocks.video | clocks/video_clock
clocks.applications.graphics [MHz] | clocks.applications.gr | applications_clocks/graphics_clock
clocks.applications.memory [MHz] | clocks.applications.mem | applications_clocks/mem_clock
clocks.default_applications.graphics [MHz] | clocks.default_applications.gr | default_applications_clocks/graphics_clock
clocks.default_applications.memory [MHz] | clocks.default_applications.mem | default_applications_clocks/mem_clock
clocks.max.graphics [MHz] | clocks.max.gr | max_clocks/graphics_clock
clocks.max.sm [MHz] | | max_clocks/sm_clock
clocks.max.memory [MHz] | clocks.max.mem | max_clocks/mem_clock
mig.mode.current | | mig_mode/current_mig
mig.mode.pending | | mig_mode/pending_mig
gsp.mode.current | | =enabled
gsp.mode.default | | =enabled
c2c.mode | | c2c_mode
protected_memory.total [MiB] | | cc_protected_memory_usage/total
protected_memory.used [MiB] | | cc_protected_memory_usage/used
protected_memory.free [MiB] | | cc_protected_memory_usage/free
fabric.state | | =raw fabric/state
fabric.status | | =raw fabric/status
fabric.cliqueId | | =raw fabric/cliqueId
fabric.clusterUuid | | =raw fabric/clusterUuid
fabric.health.summary | | =raw fabric/health/summary
fabric.health.bandwidth | | =raw fabric/health/bandwidth
fabric.health.route_recovery_in_progress | | =raw fabric/health/route_recovery_in_progress
fabric.health.route_unhealthy | | =raw fabric/health/route_unhealthy
fabric.health.access_timeout_recovery | | =raw fabric/health/access_timeout_recovery
fabric.health.incorrect_configuration | | =raw fabric/health/incorrect_configuration
fabric.health.partition_assigned | | =raw fabric/health/partition_assigned
platform.chassis_serial_number | | =blank
platform.slot_number | | =none
platform.tray_index | | =none
platform.host_id | | =one
platform.peer_type | | =peer
platform.module_id | | =raw platformInfo/module_id
platform.gpu_fabric_guid | | =guid
hostname | |
"""

# the error counters, by severity and span; only these places are counted on the described models
_PLACES = (
    "device_memory",
    "dram",
    "register_file",
    "l1_cache",
    "l2_cache",
    "texture_memory",
    "cbu",
    "sram",
    "total",
)


def _ecc_lines() -> list[str]:
    return [
        f"ecc.errors.{severity}.{span}.{place} | | =ecc {severity} {span} {place}"
        for severity in ("corrected", "uncorrected")
        for span in ("volatile", "aggregate")
        for place in _PLACES
    ]


def _parse(line: str) -> Field:
    head, aliases, source = (part.strip() for part in line.split("|"))
    name, _, unit = head.partition(" [")
    return Field(name, unit.removesuffix("]"), source, tuple(aliases.split()))


def _table() -> list[Field]:
    lines: list[str] = []
    for line in _TABLE.strip().splitlines():
        lines += _ecc_lines() if line == "ECC" else [line]
    return [_parse(line) for line in lines]


GPU_FIELDS = _table()
APP_FIELDS = [
    _parse(line)
    for line in (
        "timestamp | | timestamp",
        "gpu_name | | name",
        "gpu_bus_id | | bus",
        "gpu_serial | | serial",
        "gpu_uuid | | uuid",
        "pid | | pid",
        "process_name | name | process",
        "used_gpu_memory [MiB] | used_memory | memory",
    )
]


def index(fields: list[Field]) -> dict[str, Field]:
    """Each field under its name and its aliases."""
    return {name: field for field in fields for name in (field.name, *field.aliases)}
