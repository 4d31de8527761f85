"""What the driver's Xid codes mean and what to do about each: a table of our own.

A line is: code, NVIDIA's mnemonic, action, meaning. Codes, mnemonics and the class of action are facts of
NVIDIA's catalog (docs.nvidia.com/deploy/xid-errors). Where that gives a workflow instead of an action, the
action is our choice: after a double-bit or NVLink fault the GPU is taken out (drain), since nobody knows yet
what else was damaged.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Xid:
    code: int
    mnemonic: str
    action: str
    meaning: str


TABLE = """
8 ROBUST_CHANNEL_FIFO_ERROR_IDLE_TIMEOUT restart-application a queue made no progress in time
11 ROBUST_CHANNEL_GR_ERROR_MISSING_HW restart-application the commands sent to the GPU were damaged
13 ROBUST_CHANNEL_GR_EXCEPTION restart-application a kernel broke a rule of the compute engine
14 ROBUST_CHANNEL_FAKE_ERROR none a fault that only tests raise
25 ROBUST_CHANNEL_GR_ILLEGAL_NOTIFY restart-application the commands sent to the GPU were not allowed
31 ROBUST_CHANNEL_FIFO_ERROR_MMU_ERR_FLT restart-application GPU memory was touched that is not mapped
32 ROBUST_CHANNEL_PBDMA_ERROR restart-application the commands fetched by the GPU were damaged
37 ROBUST_CHANNEL_FECS_ERR_UNIMP_FIRMWARE_METHOD none the engine firmware was asked for something it lacks
38 ROBUST_CHANNEL_FECS_ERR_WATCHDOG_TIMEOUT none the engine firmware watchdog ran out
39 ROBUST_CHANNEL_CE0_ERROR restart-application copy engine 0 faulted
40 ROBUST_CHANNEL_CE1_ERROR restart-application copy engine 1 faulted
41 ROBUST_CHANNEL_CE2_ERROR restart-application copy engine 2 faulted
43 ROBUST_CHANNEL_RESETCHANNEL_VERIF_ERROR none a channel of the application was stopped
44 ROBUST_CHANNEL_GR_FAULT_DURING_CTXSW none the engine faulted while it changed contexts
45 ROBUST_CHANNEL_PREEMPTIVE_REMOVAL none channels were cleaned up after an earlier fault
46 ROBUST_CHANNEL_GPU_TIMEOUT_ERROR reset the GPU stopped answering
48 ROBUST_CHANNEL_GPU_ECC_DBE drain memory gave a double-bit error that ECC could not mend
54 SILENT_RUNNING_PWR_REDUCED_CLOCKING service the extra power cable has no contact
60 ROBUST_CHANNEL_SEC2_ERROR restart-application the video processor faulted
62 PMU_HALT_ERROR reset the power controller of the GPU halted
63 INFOROM_DRAM_RETIREMENT_EVENT none a bad memory row or page was marked for repair
64 INFOROM_DRAM_RETIREMENT_FAILURE reset a bad memory row or page could not be repaired
66 ROBUST_CHANNEL_FECS_ERR_REG_ACCESS_VIOLATION none the driver touched a register it may not
67 ROBUST_CHANNEL_FECS_ERR_VERIF_VIOLATION none the driver touched a register it may not
68 ROBUST_CHANNEL_NVDEC0_ERROR restart-application video decoder 0 faulted
69 ROBUST_CHANNEL_GR_CLASS_ERROR restart-application the application used the compute engine wrongly
70 ROBUST_CHANNEL_CE3_ERROR restart-application copy engine 3 faulted
71 ROBUST_CHANNEL_CE4_ERROR restart-application copy engine 4 faulted
72 ROBUST_CHANNEL_CE5_ERROR restart-application copy engine 5 faulted
74 NVLINK_ERROR drain an NVLink reported a fault
75 ROBUST_CHANNEL_CE6_ERROR restart-application copy engine 6 faulted
76 ROBUST_CHANNEL_CE7_ERROR restart-application copy engine 7 faulted
77 ROBUST_CHANNEL_CE8_ERROR restart-application copy engine 8 faulted
78 VGPU_START_ERROR service a virtual GPU did not start
79 ROBUST_CHANNEL_GPU_HAS_FALLEN_OFF_THE_BUS reboot the GPU no longer answers on the PCI bus
80 PBDMA_PUSHBUFFER_CRC_MISMATCH restart-application data on its way to the GPU was damaged
82 ROBUST_CHANNEL_NVJPG0_ERROR restart-application JPEG decoder 0 faulted
83 ROBUST_CHANNEL_NVDEC1_ERROR restart-application video decoder 1 faulted
84 ROBUST_CHANNEL_NVDEC2_ERROR restart-application video decoder 2 faulted
85 ROBUST_CHANNEL_CE9_ERROR restart-application copy engine 9 faulted
86 ROBUST_CHANNEL_OFA0_ERROR restart-application the optical-flow engine faulted
88 ROBUST_CHANNEL_NVDEC3_ERROR restart-application video decoder 3 faulted
89 ROBUST_CHANNEL_NVDEC4_ERROR restart-application video decoder 4 faulted
92 EXCESSIVE_SBE_INTERRUPTS none single-bit memory errors come unusually often
93 INFOROM_ERASE_LIMIT_EXCEEDED none the board memory for records is nearly worn out
94 ROBUST_CHANNEL_CONTAINED_ERROR restart-application a memory error that hit one application only
95 ROBUST_CHANNEL_UNCONTAINED_ERROR reset a memory error that may have hit every user
96 ROBUST_CHANNEL_NVDEC5_ERROR restart-application video decoder 5 faulted
97 ROBUST_CHANNEL_NVDEC6_ERROR restart-application video decoder 6 faulted
98 ROBUST_CHANNEL_NVDEC7_ERROR restart-application video decoder 7 faulted
99 ROBUST_CHANNEL_NVJPG1_ERROR restart-application JPEG decoder 1 faulted
100 ROBUST_CHANNEL_NVJPG2_ERROR restart-application JPEG decoder 2 faulted
101 ROBUST_CHANNEL_NVJPG3_ERROR restart-application JPEG decoder 3 faulted
102 ROBUST_CHANNEL_NVJPG4_ERROR restart-application JPEG decoder 4 faulted
103 ROBUST_CHANNEL_NVJPG5_ERROR restart-application JPEG decoder 5 faulted
104 ROBUST_CHANNEL_NVJPG6_ERROR restart-application JPEG decoder 6 faulted
105 ROBUST_CHANNEL_NVJPG7_ERROR restart-application JPEG decoder 7 faulted
106 SMBPBI_TEST_MESSAGE none a test message of the management bus
107 SMBPBI_TEST_MESSAGE_SILENT none a silent test message of the management bus
108 NVLINK_REMOTE_TRANSLATION_ERROR none a remote address over NVLink was not translated
109 ROBUST_CHANNEL_CTXSW_TIMEOUT_ERROR reset changing contexts took too long
110 SEC_FAULT_ERROR reset a security engine faulted
119 GSP_RPC_TIMEOUT reset the GPU system processor did not answer a call
120 GSP_ERROR reset the GPU system processor faulted
121 C2C_ERROR none the link between CPU and GPU had a fault that was corrected
126 ROBUST_CHANNEL_CE10_ERROR restart-application copy engine 10 faulted
127 ROBUST_CHANNEL_CE11_ERROR restart-application copy engine 11 faulted
128 ROBUST_CHANNEL_CE12_ERROR restart-application copy engine 12 faulted
129 ROBUST_CHANNEL_CE13_ERROR restart-application copy engine 13 faulted
130 ROBUST_CHANNEL_CE14_ERROR restart-application copy engine 14 faulted
131 ROBUST_CHANNEL_CE15_ERROR restart-application copy engine 15 faulted
132 ROBUST_CHANNEL_CE16_ERROR restart-application copy engine 16 faulted
133 ROBUST_CHANNEL_CE17_ERROR restart-application copy engine 17 faulted
134 ROBUST_CHANNEL_CE18_ERROR restart-application copy engine 18 faulted
135 ROBUST_CHANNEL_CE19_ERROR restart-application copy engine 19 faulted
136 ALI_TRAINING_FAIL reset an NVLink did not come up
137 NVLINK_PRIV_ERR none a peer was refused over NVLink
139 ROBUST_CHANNEL_OFA1_ERROR restart-application the second optical-flow engine faulted
140 UNRECOVERABLE_ECC_ERROR_ESCAPE reset a memory error escaped repair
141 ROBUST_CHANNEL_FAST_PATH_ERROR none a fast path of the compute library faulted
142 ROBUST_CHANNEL_NVENC3_ERROR service the fourth video encoder faulted
143 GPU_INIT_ERROR reset the GPU did not come up
144 NVLINK_SAW_ERROR drain NVLink: fault in the switch adapter
145 NVLINK_RLW_ERROR drain NVLink: fault in the receive layer
146 NVLINK_TLW_ERROR drain NVLink: fault in the transmit layer
147 NVLINK_TREX_ERROR drain NVLink: fault in the fabric crossbar
148 NVLINK_NVLPW_CTRL_ERROR drain NVLink: fault in the link power control
149 NVLINK_NETIR_ERROR drain NVLink: fault in the network interface
150 NVLINK_MSE_ERROR drain NVLink: fault in the management engine
151 ROBUST_CHANNEL_KEY_ROTATION_ERROR reboot keys of confidential computing were not renewed
152 ROBUST_CHANNEL_DLA_SMMU_ERROR none the deep-learning engine touched memory it may not
153 ROBUST_CHANNEL_DLA_TIMEOUT none the deep-learning engine took too long
154 GPU_RECOVERY_ACTION_CHANGED none what the driver advises has changed
155 NVLINK_SW_DEFINED_ERROR reset NVLink: a fault named by software
156 RESOURCE_RETIREMENT_EVENT reset a part of the chip was taken out of use
157 RESOURCE_RETIREMENT_FAILURE none a part of the chip could not be taken out of use
158 GPU_FATAL_TIMEOUT reset the GPU ran into a fatal time-out
159 ROBUST_CHANNEL_CHI_NON_DATA_ERROR restart-application the coherent link returned an error without data
160 CHANNEL_RETIREMENT_EVENT none a memory channel was taken out of use
161 CHANNEL_RETIREMENT_FAILURE none a memory channel could not be taken out of use
162 PSHC_REENGAGED none power smoothing works again
163 PSHC_DISENGAGED none power smoothing was switched off
164 PSHC_LOW_LIFETIME service power smoothing is nearly worn out
165 PSHC_ZERO_LIFETIME service power smoothing is worn out
166 NVLINK_SECURE_CRYPTO_ERR service unencrypted traffic on a link that must be secure
167 PCIE_FATAL_TIMEOUT reboot a PCIe transfer never ended
168 REDUCED_GPU_MEMORY_CAPACITY reset protected memory has errors, less memory is left
169 SEC2_HALT_ERROR reset the security processor halted
170 NVLINK_SECURE_OTHER service an interrupt that confidential computing does not expect
171 UNCORRECTABLE_DRAM_ERROR drain details of an unmendable error in the main memory
172 UNCORRECTABLE_SRAM_ERROR drain details of an unmendable error in the on-chip memory
"""
# Codes that no current driver logs: whatever they say, someone has to look.
RESERVED = """
1 ROBUST_CHANNEL_FIFO_ERROR_FIFO_METHOD
2 ROBUST_CHANNEL_FIFO_ERROR_SW_METHOD
3 ROBUST_CHANNEL_FIFO_ERROR_UNK_METHOD
4 ROBUST_CHANNEL_FIFO_ERROR_CHANNEL_BUSY
5 ROBUST_CHANNEL_FIFO_ERROR_RUNOUT_OVERFLOW
6 ROBUST_CHANNEL_FIFO_ERROR_PARSE_ERR
7 ROBUST_CHANNEL_FIFO_ERROR_PTE_ERR
9 ROBUST_CHANNEL_GR_ERROR_INSTANCE
10 ROBUST_CHANNEL_GR_ERROR_SINGLE_STEP
12 ROBUST_CHANNEL_GR_ERROR_SW_METHOD
15 ROBUST_CHANNEL_SCANLINE_TIMEOUT
16 ROBUST_CHANNEL_VBLANK_CALLBACK_TIMEOUT
17 ROBUST_CHANNEL_PARAMETER_ERROR
18 ROBUST_CHANNEL_BUS_MASTER_TIMEOUT_ERROR
19 ROBUST_CHANNEL_DISP_MISSED_NOTIFIER
20 ROBUST_CHANNEL_MPEG_ERROR_SW_METHOD
21 ROBUST_CHANNEL_ME_ERROR_SW_METHOD
22 ROBUST_CHANNEL_VP_ERROR_SW_METHOD
23 ROBUST_CHANNEL_RC_LOGGING_ENABLED
24 ROBUST_CHANNEL_GR_SEMAPHORE_TIMEOUT
26 ROBUST_CHANNEL_FIFO_ERROR_FBISTATE_TIMEOUT
27 ROBUST_CHANNEL_VP_ERROR
28 ROBUST_CHANNEL_VP2_ERROR
29 ROBUST_CHANNEL_BSP_ERROR
30 ROBUST_CHANNEL_BAD_ADDR_ACCESS
33 ROBUST_CHANNEL_SEC_ERROR
34 ROBUST_CHANNEL_MSVLD_ERROR
35 ROBUST_CHANNEL_MSPDEC_ERROR
36 ROBUST_CHANNEL_MSPPP_ERROR
42 ROBUST_CHANNEL_VIC_ERROR
47 ROBUST_CHANNEL_NVENC0_ERROR
49 SILENT_RUNNING_CONSTANT_LEVEL_SET_BY_REGISTRY
50 SILENT_RUNNING_LEVEL_TRANSITION_DUE_TO_RC_ERROR
51 SILENT_RUNNING_STRESS_TEST_FAILURE
52 SILENT_RUNNING_LEVEL_TRANS_DUE_TO_TEMP_RISE
53 SILENT_RUNNING_TEMP_REDUCED_CLOCKING
55 SILENT_RUNNING_TEMPERATURE_READ_ERROR
56 DISPLAY_CHANNEL_EXCEPTION
57 FB_LINK_TRAINING_FAILURE_ERROR
58 FB_MEMORY_ERROR
59 PMU_ERROR
61 PMU_BREAKPOINT
65 ROBUST_CHANNEL_NVENC1_ERROR
73 ROBUST_CHANNEL_NVENC2_ERROR
81 ROBUST_CHANNEL_VGA_SUBSYSTEM_ERROR
87 NVTELEMETRY_DRIVER_REPORT
90 LTC_ERROR
91 RESERVED_XID
111 BUNDLE_ERROR_EVENT
112 DISP_SUPERVISOR_ERROR
113 DP_LT_FAILURE
114 HEAD_RG_UNDERFLOW
115 CORE_CHANNEL_REGS
116 WINDOW_CHANNEL_REGS
117 CURSOR_CHANNEL_REGS
118 HEAD_REGS
122 SPI_PMU_RPC_READ_FAIL
123 SPI_PMU_RPC_WRITE_FAIL
124 SPI_PMU_RPC_ERASE_FAIL
125 INFOROM_FS_ERROR
138 ROBUST_CHANNEL_DLA_ERROR
"""


def _rows() -> dict[int, Xid]:
    found = {}
    for line in TABLE.strip().splitlines():
        code, mnemonic, action, meaning = line.split(" ", 3)
        found[int(code)] = Xid(int(code), mnemonic, action, meaning)
    for line in RESERVED.strip().splitlines():
        code, mnemonic = line.split()
        found[int(code)] = Xid(int(code), mnemonic, "service", "a code that drivers no longer use")
    return found


XIDS = _rows()
